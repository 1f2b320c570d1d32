"""The commands about tokenizers: list the types, and show how one encodes a text."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from trt_tokenizers.cli.common import Command, pairs

if TYPE_CHECKING:
    from trt_tokenizers.processing.prompts import Prompt, PromptSettings
    from trt_tokenizers.tokenizers.inspection import Piece

#: Background colours of adjacent pieces; black text is legible on all of them.
_COLOURS = ("bright_blue", "bright_green", "bright_yellow", "bright_cyan")
_SPECIAL_COLOURS = ("magenta", "bright_magenta")


@click.command("tokenizers", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def tokenizers(*, as_json: bool) -> None:
    """List the tokenizer types with their packages, and why a type cannot be used here.

    \b
    Example:
      trt-tokenizers tokenizers

    \b
    Exit codes:
      0  listed, also if some types cannot be used
      2  wrong options
    """
    from trt_tokenizers.plugins import list_plugins
    from trt_tokenizers.tokenizers.registry import ALIASES, GROUP, NEEDS

    found = list_plugins(GROUP, NEEDS)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(plugin) for plugin in found]))
        return
    for plugin in found:
        owner = f"{plugin.package} {plugin.version}".strip()
        state = click.style(plugin.error, fg="red") if plugin.error else plugin.target
        click.echo(f"{plugin.name:<14} {owner:<24} {state}", color=_in_colour())
    older = ", ".join(f"{alias} for {name}" for alias, name in ALIASES.items())
    click.echo(f"Older names: {older}. Your own: module:Class, or an entry point of {GROUP}")


@click.command("tokenize", cls=Command)
@click.argument("text", required=False)
@click.option("--tokenizer-dir", required=True, type=click.Path(), help="The tokenizer's folder.")
@click.option("--tokenizer-type", default="auto", help="A type's name, or module:Class.")
@click.option("--tiktoken-pattern", default="", help="For type tiktoken; see docs/tokenizers.md.")
@click.option("--messages", help="A JSON list of messages instead of TEXT.")
@click.option("--tools", default="", help="A JSON list of tools for the template.")
@click.option("--template-kwargs", default="", help="A JSON object for the template.")
@click.option("--template", default="auto", help="auto, none, a name, a Jinja file, or Jinja text.")
@click.option("--no-special-tokens", is_flag=True, help="Do not add BOS or EOS to TEXT.")
@click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="Any other setting.")
@click.option("--compare", type=click.Choice(["transformers"]), help="Show the first difference.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object: prompt, tokens, count.")
@click.pass_context
def tokenize(
    ctx: click.Context,
    /,
    *,
    text: str | None,
    messages: str | None,
    tools: str,
    template_kwargs: str,
    no_special_tokens: bool,
    values: tuple[str, ...],
    compare: str | None,
    as_json: bool,
    **options: str,
) -> None:
    """Show how a tokenizer encodes TEXT (or standard input), exactly as the server does.

    --set takes the settings of the model preprocessing that affect ids, for example add_bos, legacy
    or truncate_prompt_tokens. To list them: trt-tokenizers settings.

    \b
    Example:
      trt-tokenizers tokenize --tokenizer-dir ./SmolLM2-135M-Instruct "Hello, world"
      trt-tokenizers tokenize --tokenizer-dir D --set add_bos=true --set add_eos=true "a"
      trt-tokenizers tokenize --tokenizer-dir D --messages '[{"role": "user", "content": "a"}]'

    \b
    Exit codes:
      0  shown; with --compare: the ids are equal
      1  the tokenizer does not load, the template raises an error, or the ids differ
      2  wrong options or settings
    """
    from trt_tokenizers import logs
    from trt_tokenizers.processing.prompts import PromptMaker, PromptSettings
    from trt_tokenizers.processing.request import TextRequest
    from trt_tokenizers.settings import parse
    from trt_tokenizers.tokenizers.base import GUARD
    from trt_tokenizers.tokenizers.inspection import kept, pieces
    from trt_tokenizers.tokenizers.registry import create

    if messages is not None and text is not None:
        raise click.UsageError("TEXT and --messages are both given; give one of them")
    options["add_special_tokens"] = str(not no_special_tokens)
    settings = parse(PromptSettings, {**options, **pairs(values)}, "--set")
    with logs.redirect_to(lambda text: click.echo(f"note: {text}", err=True)):
        tokenizer = create(settings)
    maker = PromptMaker(settings, tokenizer)
    (prompt,) = prompts = maker.make(
        TextRequest(
            text_input=_rows(text) if messages is None else None,
            messages=None if messages is None else _rows(messages),
            tools=_rows(tools),
            chat_template_kwargs=_rows(template_kwargs),
        )
    )
    # Positions count in the whole prompt, also if it is truncated.
    whole = PromptMaker(dataclasses.replace(settings, truncate_prompt_tokens=0), tokenizer)
    (ids,), (all_ids,) = maker.encode(prompts), whole.encode(prompts)
    all_pieces = pieces(tokenizer, prompt.text, all_ids)
    prompt = prompt._replace(text=prompt.text.replace(GUARD, ""))
    found = kept(all_pieces, ids)
    if len(ids) < len(all_ids):
        click.echo(f"note: truncated to {len(ids)} of {len(all_ids)} tokens", err=True)
    if as_json:
        tokens = [{"id": p.id, "piece": p.text, "start": p.start, "end": p.end,
                   "special": p.special} for p in found]  # fmt: skip
        click.echo(json.dumps({"prompt": prompt.text, "count": len(ids), "tokens": tokens}))
    else:
        _show(found, prompt.text if prompt.rendered else "")
    if compare and not _same(settings, prompt, all_pieces):
        ctx.exit(1)


def _rows(text: str | None) -> list[bytes]:
    """One row: the bytes of *text* as the shell passed them, or all of standard input."""
    if text is None:
        return [sys.stdin.buffer.read()]
    return [text.encode(errors="surrogateescape")]


def _in_colour() -> bool:
    """Whether to use colours; see https://no-color.org."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _visible(text: str) -> str:
    """*text* without terminal control characters; line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _quoted(piece: str) -> str:
    # The piece already spells out bytes that are not a character.
    return repr(piece).replace("\\\\x", "\\x")


def _show(found: Sequence[Piece], rendered: str) -> None:
    if _in_colour():
        for at, piece in enumerate(found):
            colours = _SPECIAL_COLOURS if piece.special else _COLOURS
            # A line end inside a background would colour the rest of the line.
            lines = _visible(piece.text).replace("\n", "\u23ce\n").split("\n")
            colour = colours[at % len(colours)]
            styled = [
                click.style(line, fg="black", bg=colour, bold=piece.special or None)
                for line in lines
            ]
            click.echo("\n".join(styled), nl=False)
        click.echo()
    elif rendered:
        click.echo(_visible(rendered))
    for piece in found:
        span = "-" if piece.start is None else f"{piece.start}:{piece.end}"
        mark = "  special" if piece.special else ""
        click.echo(f"{piece.id:>8}  {span:<12} {_quoted(piece.text)}{mark}")
    click.echo(f"{len(found)} tokens")


def _same(settings: PromptSettings, prompt: Prompt, found: Sequence[Piece]) -> bool:
    from trt_tokenizers.tokenizers.inspection import first_difference, transformers_tokens

    special = settings.add_special_tokens and not prompt.rendered
    theirs = transformers_tokens(settings, prompt.text, add_special_tokens=special)
    at = first_difference([piece.id for piece in found], [token_id for token_id, _ in theirs])
    if at is None:
        click.echo("transformers gives the same ids", err=True)
        return True
    ours = _few([(piece.id, piece.text) for piece in found[at:]])
    position = next(
        (piece.start for piece in found[at:] if piece.start is not None), len(prompt.text)
    )
    click.echo(
        f"transformers differs at token {at}, character {position}:\n"
        f"  transformers  {_few(theirs[at:])}  ({len(theirs)} tokens in all)\n"
        f"  this type     {ours}  ({len(found)} tokens in all)",
        err=True,
    )
    return False


def _few(tokens: Sequence[tuple[int, str]]) -> str:
    shown = " ".join(f"{token_id} {_quoted(text)}" for token_id, text in tokens[:5])
    return f"{shown} \u2026" if len(tokens) > 5 else shown or "no more tokens"
