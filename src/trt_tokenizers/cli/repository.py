"""The commands that make, fill, check and explain model repositories."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trt_tokenizers.cli.common import SETTINGS, Command


@click.command("settings", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="A list of objects.")
@click.option("--markdown", is_flag=True, help="docs/configuration.md.")
@click.argument("names", nargs=-1)
def settings(*, as_json: bool, markdown: bool, names: tuple[str, ...]) -> None:
    """List what can be set: name, type, default, meaning, versions of TensorRT-LLM.

    \b
    Example:
      trt-tokenizers settings
      trt-tokenizers settings max_beam_width stream_key --json

    \b
    Exit codes:
      0  listed
      2  wrong options, or an unknown name
    """
    from trt_tokenizers.repository import settings_reference

    if markdown:
        click.echo(settings_reference.markdown(), nl=False)
        return
    found = settings_reference.find(names)
    if as_json:
        click.echo(json.dumps([settings_reference.as_dict(one) for one in found], indent=1))
    else:
        click.echo(settings_reference.table(found))


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
    from trt_tokenizers.repository.placeholders import fill_file

    filled = fill_file(file, substitutions, in_place=in_place)
    if not in_place:
        click.echo(filled, nl=False)


@click.command("adopt", cls=Command)
@click.argument("repository", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--dry-run", "-n", is_flag=True, help="Print the changes and make none.")
@click.option(
    "--skip-check",
    is_flag=True,
    help="Do not load the tokenizer and check the result: its folder is not on this machine.",
)
def adopt(*, repository: Path, dry_run: bool, skip_check: bool) -> None:
    """Turn a filled repository of TensorRT-LLM's ensemble (0.5 … 1.2) into ours.

    preprocessing, postprocessing and the ensemble's wiring are replaced; the engine's model and
    all values that are filled stay, and so does every input and output that clients know. The old
    repository is kept beside the new one. A second run changes nothing.

    \b
    Example:
      trt-tokenizers adopt --dry-run /models/repository
      trt-tokenizers adopt /models/repository

    \b
    Exit codes:
      0  adopted, or nothing to do
      1  it cannot be adopted; nothing has changed
      2  wrong options
    """
    from trt_tokenizers.repository.adopt import adopt as make
    from trt_tokenizers.repository.adopt import plan_adoption

    adoption = plan_adoption(repository)
    click.echo(adoption.diff, nl=False)
    for note in adoption.notes:
        click.echo(f"note: {note}", err=True)
    if not adoption.files:
        click.echo(f"{repository} is as it should be; nothing to do", err=True)
    elif dry_run:
        click.echo(f"{len(adoption.files)} files would change", err=True)
    else:
        backup = make(repository, adoption, checked=not skip_check)
        click.echo(f"adopted {repository}; as it was before: {backup}", err=True)


@click.command("check", cls=Command)
@click.argument("repository", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="A list of objects: file, line, what, mend.")
@click.option(
    "--no-engine", is_flag=True, help="Leave the engine's folder out: it is on another machine."
)
@click.pass_context
def check(ctx: click.Context, *, repository: Path, as_json: bool, no_engine: bool) -> None:
    """Say what would keep a model repository's ensemble from serving.

    \b
    Example:
      trt-tokenizers check model_repo
      trt-tokenizers check --json model_repo

    \b
    Exit codes:
      0  nothing is wrong
      1  something is: one line each, file:line: what; the mend
      2  wrong options
    """
    from trt_tokenizers.repository.check import check as problems

    found = problems(repository, engines=not no_engine)
    if as_json:
        click.echo(json.dumps([problem.as_dict() for problem in found], indent=1))
    else:
        for problem in found:
            click.echo(problem)
    if found:
        ctx.exit(1)
    click.echo(f"{repository} is good", err=True)
