"""The command trt-tokenizers. Each command only turns its options into calls."""

from __future__ import annotations

import click

import trt_tokenizers
from trt_tokenizers.cli.builds import build_command, versions
from trt_tokenizers.cli.chat import chat
from trt_tokenizers.cli.common import SETTINGS
from trt_tokenizers.cli.generate import generate
from trt_tokenizers.cli.launch import launch_server
from trt_tokenizers.cli.openai import openai
from trt_tokenizers.cli.plan_memory import plan
from trt_tokenizers.cli.repository import adopt, check, fill_template, settings
from trt_tokenizers.cli.run import run
from trt_tokenizers.cli.tokenize import tokenize, tokenizers


@click.group(context_settings=SETTINGS)
@click.version_option(trt_tokenizers.__version__, prog_name="trt-tokenizers")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(*, debug: bool) -> None:
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
main.add_command(chat)
main.add_command(openai)
main.add_command(run)
main.add_command(build_command)
main.add_command(versions)
