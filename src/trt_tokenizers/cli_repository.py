"""The commands that make, fill, check and explain model repositories."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trt_tokenizers.cli_launch import SETTINGS, Command


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
    from trt_tokenizers import catalogue

    if markdown:
        click.echo(catalogue.markdown(), nl=False)
        return
    found = catalogue.find(names)
    if as_json:
        click.echo(json.dumps([catalogue.as_dict(one) for one in found], indent=1))
    else:
        click.echo(catalogue.table(found))


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
    from trt_tokenizers.fill import fill_file

    filled = fill_file(file, substitutions, in_place=in_place)
    if not in_place:
        click.echo(filled, nl=False)
