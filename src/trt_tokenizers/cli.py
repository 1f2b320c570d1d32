"""The commands. No logic: each turns its options into one call."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import trt_tokenizers
from trt_tokenizers.cli_launch import SETTINGS, Command, launch_server
from trt_tokenizers.cli_tokenize import tokenize, tokenizers
from trt_tokenizers.errors import SettingsError


@click.group(context_settings=SETTINGS)
@click.version_option(trt_tokenizers.__version__, prog_name="trt-tokenizers")
def main() -> None:
    """Exact tokenizers, chat templates and streaming text for Triton's TensorRT-LLM ensemble."""


main.add_command(launch_server, "launch")
main.add_command(tokenize)
main.add_command(tokenizers)


@main.command("chat", cls=Command)
@click.option("--url", default="http://127.0.0.1:8000", help="The server's HTTP address.")
@click.option("--model", default="ensemble", help="The model to talk to.")
@click.option("--system", help="A system message.")
@click.option("--max-tokens", default=512, type=click.IntRange(1), help="Of each answer.")
@click.option("--temperature", type=click.FloatRange(0))
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True))
@click.option("--seed", type=int)
def chat(
    *,
    url: str,
    model: str,
    system: str | None,
    max_tokens: int,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
) -> None:
    """Talk to a running server.

    On a terminal: Ctrl-C stops an answer, /reset forgets the conversation, /exit or Ctrl-D ends.
    Otherwise each line of the input is a question.

    \b
    Example:
      echo "What is the capital of France?" | trt-tokenizers chat

    \b
    Exit codes:
      0  ended as asked
      1  the server refused a request, failed or is not there (input from a terminal: never)
      2  wrong options
    """
    from trt_tokenizers.client import Chat, Sampling, run_chat

    run_chat(
        Chat(url, model, system, Sampling(max_tokens, temperature, top_p, seed)),
        sys.stdin,
        sys.stdout,
        sys.stderr,
    )


@main.command("generate", cls=Command)
@click.option("--engine", default="transformers", help="The engine in the tensorrt_llm slot.")
@click.option("--model", required=True, type=click.Path(path_type=Path), help="The model's folder.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="What to make.")
@click.option(
    "--tokenizer-dir",
    type=click.Path(path_type=Path),
    help="The tokenizer's folder.  [default: the model's]",
)
@click.option("--tokenizer-type", default="auto", help="A type's name, or module:Class.")
@click.option("--template", default="auto", help="Chat template: auto, none, llama2, chatml, …")
@click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="Any other placeholder.")
@click.option(
    "--outputs",
    default="",
    metavar="A,B,…",
    help="The ensemble's outputs; beside the usual ones output_ids, batch_index, sequence_index.",
)
@click.option(
    "--engine-parameter",
    "engine_parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Of an engine of your own: what it takes.",
)
@click.option("--force", is_flag=True, help="Replace a repository that this command made.")
def generate(
    *,
    engine: str,
    model: Path,
    output: Path,
    tokenizer_dir: Path | None,
    tokenizer_type: str,
    template: str,
    values: tuple[str, ...],
    outputs: str,
    engine_parameters: tuple[str, ...],
    force: bool,
) -> None:
    """Write a complete model repository for a model in Hugging Face's layout.

    \b
    Example:
      trt-tokenizers generate --model ./SmolLM2-135M-Instruct --output model_repo
      trt-tokenizers generate --model M --output R --template llama2 --set dtype=bfloat16

    \b
    Exit codes:
      0  written
      1  a value, the model's folder or the output is wrong; nothing was written
      2  wrong options
    """
    from trt_tokenizers.check import check as problems
    from trt_tokenizers.repository import Deployment, render, write

    rendered = render(
        Deployment(
            engine=engine,
            model_dir=model,
            tokenizer_dir=tokenizer_dir,
            tokenizer_type=tokenizer_type,
            template=template,
            values=_pairs(values),
            engine_parameters=_pairs(engine_parameters),
            outputs=tuple(name.strip() for name in outputs.split(",") if name.strip()),
        )
    )
    write(rendered, output, force=force, verify=problems)
    click.echo(f"wrote {output}; serve it with: launch_server --model-repo {output}", err=True)


def _pairs(options: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE, …"""
    for option in options:
        if "=" not in option:
            raise SettingsError(f"{option!r} is no NAME=VALUE")
    return dict(option.split("=", 1) for option in options)


@main.command("check", cls=Command)
@click.argument("repository", type=click.Path(path_type=Path))
@click.pass_context
def check(ctx: click.Context, repository: Path) -> None:
    """Say what would keep a model repository's ensemble from serving.

    \b
    Example:
      trt-tokenizers check model_repo

    \b
    Exit codes:
      0  nothing is wrong
      1  something is: one line each, file:line: what; the mend
      2  wrong options
    """
    from trt_tokenizers.check import check as problems

    found = problems(repository)
    for problem in found:
        click.echo(problem)
    if found:
        ctx.exit(1)
    click.echo(f"{repository} is good", err=True)


@click.command("fill_template", cls=Command, context_settings=SETTINGS)
@click.option("--in-place", "-i", is_flag=True, help="Change the file instead of printing it.")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("substitutions", metavar="KEY:VALUE,…")
def fill_template(*, in_place: bool, file: Path, substitutions: str) -> None:
    """Fill the ${placeholders} of a config.pbtxt.

    Every key must be in the file, every placeholder must get a value (if only an empty one),
    and the result must be a Triton model configuration. A comma in a value is written \\,

    \b
    Example:
      fill_template -i preprocessing/config.pbtxt "tokenizer_dir:/models/llama,tokenizer_type:llama"

    \b
    Exit codes:
      0  filled
      1  a key or value is wrong, or a placeholder is left; the file is as it was
      2  wrong options
    """
    from trt_tokenizers.repository import fill_template as fill

    filled = fill(file.read_text(encoding="utf-8"), substitutions, str(file))
    if in_place:
        file.write_text(filled, encoding="utf-8")
    else:
        click.echo(filled, nl=False)
