"""The commands. No logic: each turns its options into one call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

import trt_tokenizers
from trt_tokenizers.errors import LaunchError, SettingsError, TrtTokenizersError

#: Options may be written with _ for -, as in the script that launch_server replaces.
_SETTINGS: dict[str, Any] = {
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 100,
}


class _Command(click.Command):
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


@click.group(context_settings=_SETTINGS)
@click.version_option(trt_tokenizers.__version__, prog_name="trt-tokenizers")
def main() -> None:
    """Exact tokenizers, chat templates and streaming text for Triton's TensorRT-LLM ensemble."""


_PORT = click.IntRange(1, 65535)


@click.command("launch_server", cls=_Command, context_settings=_SETTINGS)
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


main.add_command(launch_server, "launch")


@main.command("chat", cls=_Command)
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


@main.command("generate", cls=_Command)
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
        )
    )
    write(rendered, output, force=force)
    click.echo(f"wrote {output}; serve it with: launch_server --model-repo {output}", err=True)


def _pairs(options: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE, …"""
    return {name: value for name, _, value in (option.partition("=") for option in options)}


@main.command("check", cls=_Command)
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


@click.command("fill_template", cls=_Command, context_settings=_SETTINGS)
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
