"""The command openai: the OpenAI-compatible front end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from trt_tokenizers.cli.common import Command
from trt_tokenizers.errors import SettingsError

_KEYS = "TRT_TOKENIZERS_API_KEYS"


@click.command("openai", cls=Command)
@click.option(
    "--triton",
    default="localhost:8001",
    help="Triton's gRPC address; dns:///NAME:PORT asks the servers of a name in turn.",
)
@click.option("--ensemble", default="ensemble", help="The ensemble's name in Triton.")
@click.option(
    "--preprocessing", default="preprocessing", help="The name of its model that tokenizes."
)
@click.option("--host", default="127.0.0.1", help="Address to listen at; 0.0.0.0 for all.")
@click.option("--port", default=9000, type=click.IntRange(1, 65535))
@click.option(
    "--served-model-name",
    "names",
    multiple=True,
    help="A name by which clients know the model; may be repeated.  [default: the ensemble's]",
)
@click.option(
    "--adapter", "adapters", multiple=True, help="A LoRA adapter's name, sent as the model."
)
@click.option("--tool-parser", default="auto", help="How calls of tools are found: auto, none, …")
@click.option("--reasoning-parser", default="auto", help="How reasoning is found: auto, none, …")
@click.option(
    "--reasoning-field",
    default="reasoning_content",
    type=click.Choice(["reasoning_content", "reasoning"]),
    metavar="[reasoning_content|reasoning]",
    help="The field of an answer that holds its reasoning.",
)
@click.option("--force-usage", is_flag=True, help="End every stream with the usage.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"A file of API keys, one per line; clients must send one. Or set {_KEYS}.",
)
@click.option(
    "--cors-origin", "origins", multiple=True, help="An origin whose web pages may ask; * for all."
)
@click.option(
    "--max-body",
    default=16 << 20,
    type=click.IntRange(1),
    help="Most bytes of a request.",
)
@click.option(
    "--metrics-url",
    help="Triton's metrics, passed on by /metrics; empty: none.  "
    "[default: port 8002 of the same host]",
)
@click.option(
    "--certificate", type=click.Path(path_type=Path, exists=True), help="For TLS: a PEM file."
)
@click.option("--key", type=click.Path(path_type=Path, exists=True), help="For TLS: its key.")
@click.option("--no-ui", is_flag=True, help="Do not serve the page for trying the model at /.")
@click.option("--no-access-log", is_flag=True, help="Do not write a line for each request.")
@click.option(
    "--drain-timeout",
    "drain_s",
    default=20,
    type=click.IntRange(0),
    help="Seconds for running answers to end after a stop request.",
)
def openai(
    *,
    api_key_file: Path | None,
    metrics_url: str | None,
    no_ui: bool,
    no_access_log: bool,
    **options: Any,
) -> None:
    """Serve OpenAI's API for an ensemble of a running Triton.

    Every option can be set in the environment: TRT_TOKENIZERS_OPENAI_PORT for --port.

    \b
    Example:
      trt-tokenizers openai --triton localhost:8001 --port 9000

    \b
    Exit codes:
      0  stopped on request
      1  it cannot listen
      2  wrong options
    """
    try:
        from trt_tokenizers.openai.options import FrontEndOptions
        from trt_tokenizers.openai.serve import serve
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the module {error.name} is missing; run pip install 'trt-tokenizers[openai]'"
        ) from None

    if (options["certificate"] is None) != (options["key"] is None):
        raise SettingsError("--certificate and --key are only of use together; give both")
    text = (
        api_key_file.read_text() if api_key_file else os.environ.get(_KEYS, "").replace(",", "\n")
    )
    keys = tuple(filter(None, map(str.strip, text.splitlines())))
    if api_key_file and not keys:
        raise SettingsError(f"--api-key-file {api_key_file} holds no key; write one per line")
    if metrics_url is None:
        host = options["triton"].rpartition("/")[2].rpartition(":")[0]
        metrics_url = f"http://{host}:8002/metrics"
    made = FrontEndOptions(
        api_keys=keys,
        metrics_url=metrics_url,
        page=not no_ui,
        log_requests=not no_access_log,
        **options,
    )
    click.echo(f"openai: listening at {made.host}:{made.port}, asking {made.triton}", err=True)
    serve(made)


for _option in openai.params:
    _name = _option.opts[0].lstrip("-").replace("-", "_").upper()
    _option.envvar = f"TRT_TOKENIZERS_OPENAI_{_name}"

if __name__ == "__main__":
    openai()
