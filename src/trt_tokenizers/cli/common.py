"""What all commands have in common: option names, error lines, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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


def pairs(options: Sequence[str]) -> dict[str, str]:
    """Of options NAME=VALUE; the last one of a name counts.

    Raises:
        SettingsError: one is none.
    """
    for option in options:
        if "=" not in option:
            raise SettingsError(f"{option!r} is no NAME=VALUE")
    return dict(option.split("=", 1) for option in options)


def _fail(error: TrtTokenizersError) -> NoReturn:
    for line in str(error).splitlines():
        click.echo(f"error: {line}", err=True)
    if isinstance(error, LaunchError):
        sys.exit(error.exit_code)
    sys.exit(2 if isinstance(error, SettingsError) else 1)
