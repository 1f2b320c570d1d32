"""The commands that fill, adopt and check model repositories, and list their settings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from trt_tokenizers.cli.common import FILE, FOLDER, PATH, Command
from trt_tokenizers.errors import RepositoryError


@click.command("settings", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option("--markdown", is_flag=True, help="Print docs/configuration.md.")
@click.argument("names", nargs=-1)
def settings(*, as_json: bool, markdown: bool, names: tuple[str, ...]) -> None:
    """List all settings: name, type, default, meaning and TensorRT-LLM versions.

    \b
    Example:
      trt-tokenizers settings
      trt-tokenizers settings max_beam_width stream_key --json

    \b
    Exit codes:
      0  listed
      2  wrong options or an unknown name
    """
    from trt_tokenizers.repository import settings_reference

    if markdown:
        click.echo(settings_reference.markdown(), nl=False)
        return
    found = settings_reference.find(names)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(s) for s in found], indent=1))
    else:
        click.echo(settings_reference.table(found))


@click.command("fill_template", cls=Command)
@click.option("--in-place", "-i", is_flag=True, help="Change the file instead of printing it.")
@click.argument("file", type=FILE)
@click.argument("substitutions", metavar="KEY:VALUE,…")
def fill_template(*, in_place: bool, file: Path, substitutions: str) -> None:
    """Fill the ${placeholders} of a config.pbtxt.

    A placeholder without a value stays: inside quotes it means the default, outside quotes fill it
    before Triton reads the file. A key that only other templates have is ignored. Write a comma in
    a value as \\,

    Keys of the C++ backend (engine_dir) turn the engine of this package's skeleton, and the models
    beside it, into a repository of that backend.

    \b
    Example:
      fill_template -i preprocessing/config.pbtxt "tokenizer_dir:/models/llama,tokenizer_type:llama"

    \b
    Exit codes:
      0  filled
      1  a key or value is wrong; the file has not changed
      2  wrong options
    """
    from trt_tokenizers.repository.fill_file import fill_file

    def note(line: str) -> None:
        click.echo(f"note: {line}", err=True)

    filled = fill_file(file, substitutions, in_place=in_place, note=note)
    if not in_place:
        click.echo(filled, nl=False)


@click.command("adopt", cls=Command)
@click.argument("repository", type=FOLDER)
@click.option("--dry-run", "-n", is_flag=True, help="Say what would change without changing it.")
@click.option("--diff", is_flag=True, help="Print the whole diff to standard output.")
@click.option("--skip-check", is_flag=True, help="Skip the check, which needs the tokenizer.")
def adopt(*, repository: Path, dry_run: bool, diff: bool, skip_check: bool) -> None:
    """Put this package's text models into a filled repository of TensorRT-LLM's ensemble.

    preprocessing, postprocessing and the ensemble's maps are replaced. The engine, all filled
    values, and every input and output that clients know stay. The old repository and the diff are
    kept beside the new one. A second run changes nothing.

    \b
    Example:
      trt-tokenizers adopt --dry-run --diff /models/repository
      trt-tokenizers adopt /models/repository

    \b
    Exit codes:
      0  adopted, or nothing to do
      1  the repository cannot be adopted; nothing has changed
      2  wrong options
    """
    from trt_tokenizers.repository import adopt as repository_adopt
    from trt_tokenizers.repository.adoption_summary import changes, next_steps

    adoption = repository_adopt.plan_adoption(repository)
    if diff:
        click.echo(adoption.diff, nl=False)
    for note in adoption.notes:
        click.echo(f"note: {note}", err=True)
    found = [] if skip_check else repository_adopt.problems(repository, adoption)
    if found:
        raise RepositoryError("\n".join(found))
    if not adoption.files:
        click.echo(f"{repository} is already adopted; nothing to do", err=True)
        return
    for line in changes(adoption):
        click.echo(line, err=True)
    if dry_run:
        click.echo(
            f"{len(adoption.files)} files would change, and none has; --diff shows the lines",
            err=True,
        )
        return
    backup, written = repository_adopt.adopt(repository, adoption)
    click.echo(
        f"adopted {repository}; the old repository is in {backup}, the diff in {written}", err=True
    )
    for line in next_steps(repository, backup, checked=not skip_check):
        click.echo(line, err=True)


@click.command("check", cls=Command)
@click.argument("repository", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list: file, line, what, fix.")
@click.option("--no-engine", is_flag=True, help="Skip the check of the engine's folder.")
@click.pass_context
def check(ctx: click.Context, *, repository: Path, as_json: bool, no_engine: bool) -> None:
    """Find what would prevent a model repository's ensemble from serving.

    \b
    Example:
      trt-tokenizers check model_repo
      trt-tokenizers check --json model_repo

    \b
    Exit codes:
      0  no problem
      1  problems, one line each: file:line: what; fix
      2  wrong options
    """
    from trt_tokenizers.repository import check as repository_check

    problems = repository_check.check(repository, engines=not no_engine)
    if as_json:
        click.echo(json.dumps([problem.as_dict() for problem in problems], indent=1))
    else:
        for problem in problems:
            click.echo(problem)
    if problems:
        ctx.exit(1)
    click.echo(f"{repository} has no problems", err=True)
