"""The commands. No logic: each turns its options into one call."""

from __future__ import annotations

import sys

import click

import trt_tokenizers
from trt_tokenizers.cli.generate import generate
from trt_tokenizers.cli.launch import SETTINGS, Command, launch_server
from trt_tokenizers.cli.plan_memory import plan
from trt_tokenizers.cli.repository import adopt, check, fill_template, settings
from trt_tokenizers.cli.tokenize import tokenize, tokenizers


@click.group(context_settings=SETTINGS)
@click.version_option(trt_tokenizers.__version__, prog_name="trt-tokenizers")
def main() -> None:
    """Exact tokenizers, chat templates and streaming text for Triton's TensorRT-LLM ensemble."""


main.add_command(launch_server, "launch")
main.add_command(generate)
main.add_command(settings)
main.add_command(plan)
main.add_command(adopt)
main.add_command(check)
main.add_command(fill_template, "fill-template")
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
