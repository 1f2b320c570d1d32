"""The command trt-tokenizers. Each command only turns its options into calls."""

from __future__ import annotations

import click

import trt_tokenizers
from trt_tokenizers.cli.builds import build_command, versions
from trt_tokenizers.cli.chat import chat
from trt_tokenizers.cli.common import SETTINGS
from trt_tokenizers.cli.demo_model import demo_model
from trt_tokenizers.cli.generate import generate
from trt_tokenizers.cli.launch import launch_server
from trt_tokenizers.cli.openai import openai
from trt_tokenizers.cli.plan_memory import plan
from trt_tokenizers.cli.repository import adopt, check, fill_template, settings
from trt_tokenizers.cli.run import run
from trt_tokenizers.cli.serve import serve
from trt_tokenizers.cli.tokenize import tokenize, tokenizers
from trt_tokenizers.settings import nearest

#: Heading of the help -> names of all commands, in this order.
GROUPS = {
    "Try": ("serve", "demo-model", "chat", "tokenize", "tokenizers", "run"),
    "Repository": (
        "generate", "check", "adopt", "settings", "fill-template", "build-command", "versions",
    ),
    "Operate": ("plan", "launch", "openai"),
}  # fmt: skip
_WHOLE = 1000  # characters of a summary, which has fewer


class _Main(click.Group):
    """A group of commands with headings and whole summaries, which names the nearest command."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for heading, names in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([
                    (name.ljust(width), self.commands[name].get_short_help_str(_WHOLE))
                    for name in names
                ])  # fmt: skip

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0].replace("_", "-")
        if name not in self.commands and not name.startswith("-"):
            ctx.fail(f"No such command {name!r}{nearest(name, self.commands)}.")
        return super().resolve_command(ctx, args)


@click.group(cls=_Main, context_settings=SETTINGS, invoke_without_command=True)
@click.version_option(trt_tokenizers.__version__, prog_name="trt-tokenizers")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(ctx: click.Context, *, debug: bool) -> None:
    """\b
    Serve a language model with NVIDIA Triton: text or chat messages in, exact
    text out, whole or streamed, and OpenAI's API. Tokenizer, chat template and
    engine are yours to choose, in a new repository or in that of an ensemble.
    To try it without a model of your own: trt-tokenizers serve demo
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


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
main.add_command(serve)
main.add_command(demo_model)
main.add_command(build_command)
main.add_command(versions)
