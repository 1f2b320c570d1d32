"""What all commands share: option names, error lines, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from trt_tokenizers.errors import LaunchError, SettingsError, TrtTokenizersError

#: Options accept _ instead of -, like the script that launch_server replaces.
SETTINGS: dict[str, Any] = {
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 100,
}


class Command(click.Command):
    """A command that reports this package's errors as lines «error: …» and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TrtTokenizersError as error:
            _fail(error)


def pairs(options: Sequence[str]) -> dict[str, str]:
    """Parse options NAME=VALUE. The last value of a name counts.

    Raises:
        SettingsError: an option has no ``=``.
    """
    for option in options:
        if "=" not in option:
            raise SettingsError(f"{option!r} is not NAME=VALUE; write the name, = and the value")
    return dict(option.split("=", 1) for option in options)


def _fail(error: TrtTokenizersError) -> NoReturn:
    for line in str(error).splitlines():
        click.echo(f"error: {line}", err=True)
    if isinstance(error, LaunchError):
        sys.exit(error.exit_code)
    sys.exit(2 if isinstance(error, SettingsError) else 1)
