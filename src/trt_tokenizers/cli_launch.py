"""The command launch_server, and what all commands have in common."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from trt_tokenizers.errors import LaunchError, SettingsError, TrtTokenizersError

#: Options may be written with _ for -, as in the script that launch_server replaces.
SETTINGS: dict[str, Any] = {
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 100,
}


class Command(click.Command):
    """A command whose errors of ours are lines «error: …» and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TrtTokenizersError as error:
            _fail(error)


def _fail(error: TrtTokenizersError) -> NoReturn:
    for line in str(error).splitlines():
        click.echo(f"error: {line}", err=True)
    if isinstance(error, LaunchError):
        sys.exit(error.exit_code)
    sys.exit(2 if isinstance(error, SettingsError) else 1)


_PORT = click.IntRange(1, 65535)


@click.command("launch_server", cls=Command, context_settings=SETTINGS)
@click.option(
    "--model-repo",
    required=True,
    type=click.Path(path_type=Path),
    help="The model repository.",
)
@click.option("--world-size", default=1, type=click.IntRange(1), help="MPI ranks; only 1 so far.")
@click.option("--host", default="127.0.0.1", help="Address to bind to; 0.0.0.0 for all.")
@click.option("--http-port", default=8000, type=_PORT)
@click.option("--grpc-port", default=8001, type=_PORT)
@click.option("--metrics-port", default=8002, type=_PORT)
@click.option(
    "--ready-timeout",
    default=1800,
    type=click.FloatRange(0),
    help="Seconds for all models to load; 0 waits for ever.",
)
@click.option(
    "--exit-timeout",
    "--drain-timeout",
    "exit_timeout",
    default=20,
    type=click.IntRange(0),
    help="Seconds that running requests get when a stop is asked for. Five more, and it is killed.",
)
@click.option(
    "--triton-server",
    "--tritonserver",
    "triton_server",
    envvar="TRITONSERVER",
    show_envvar=True,
    help="The tritonserver to run.  [default: /opt/tritonserver, PATH or the wheel]",
)
@click.option(
    "--log-file", type=click.Path(path_type=Path), help="Append the server's output to it."
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    help="Written (JSON of the addresses) when ready, removed at the end.",
)
@click.option(
    "--auto-complete",
    is_flag=True,
    help="Let Triton complete model configurations; it then loads each Python model twice.",
)
@click.option("--verbose", "-v", count=True, help="Triton's --log-verbose; may be repeated.")
@click.argument("triton_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- TRITON_ARGS]...")
def launch_server(
    *,
    model_repo: Path,
    world_size: int,
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    ready_timeout: float,
    exit_timeout: int,
    triton_server: str | None,
    log_file: Path | None,
    ready_file: Path | None,
    auto_complete: bool,
    verbose: int,
    triton_args: tuple[str, ...],
) -> None:
    """Start Triton on a model repository, wait until it is ready, and watch it until it ends.

    Ctrl-C or SIGTERM lets running requests finish; a second one ends at once. Nothing is left
    behind, also if the launcher itself is killed. Options may be written with _ for -.

    \b
    Example:
      launch_server --model-repo models --http-port 8000 -- --log-format=ISO8601

    \b
    Exit codes:
      0      stopped as asked
      1      it did not start, did not get ready, or a Python model's process died
      2      wrong options
      n      tritonserver's own exit code
      128+n  tritonserver died of signal n (137: it had to be killed)
    """
    from trt_tokenizers.launch import Deployment, plan, problems
    from trt_tokenizers.server import find_server
    from trt_tokenizers.supervise import supervise

    deployment = Deployment(
        model_repository=model_repo,
        world_size=world_size,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        exit_timeout=exit_timeout,
        log_verbose=verbose,
        auto_complete=auto_complete,
        extra_args=triton_args,
    )
    server = find_server(triton_server)
    launch_plan = plan(deployment, server)
    if found := list(problems(deployment)):
        raise LaunchError("\n".join(found))
    supervise(
        launch_plan,
        ready_timeout=ready_timeout,
        say=lambda line: click.echo(f"launch: {line}", err=True),
        log_file=log_file,
        ready_file=ready_file,
    )
