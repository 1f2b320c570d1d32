"""What commands share: options, error lines, exit codes."""

from __future__ import annotations

import contextlib
import errno
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from trt_tokenizers.errors import LaunchError, SettingsError, TrtTokenizersError, one_line
from trt_tokenizers.hf_config import parse_json
from trt_tokenizers.processing.answer_schema import AnswerSchema

#: Options accept _ instead of -, like the script that launch_server replaces.
SETTINGS: dict[str, Any] = {
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 100,
}

#: Types of options.
PATH: Any = click.Path(path_type=Path)
FILE: Any = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER: Any = click.Path(path_type=Path, exists=True, file_okay=False)


class Command(click.Command):
    """A command that reports every error as lines «error: …» and an exit code.

    The option --debug shows the traceback as well.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        # Also without the group: an entry point or a test may call the command itself.
        super().__init__(*arguments, **{"context_settings": SETTINGS, **more})
        for option in self.params:
            if isinstance(option, click.Option) and option.default == "":
                option.show_default = option.show_default or False  # "" says nothing
        help_text = "Show the traceback of an error."
        self.params.append(
            click.Option(["--debug"], is_flag=True, expose_value=False, help=help_text)
        )

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> click.Context:
        self._debug = "--debug" in args or bool(parent and parent.params.get("debug"))
        with self._errors_reported():  # callbacks of options read files
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with self._errors_reported():
            return super().invoke(ctx)

    @contextlib.contextmanager
    def _errors_reported(self) -> Iterator[None]:
        try:
            yield
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if self._debug:
                traceback.print_exc()
            for line in _lines(error):
                click.echo(f"error: {line.encode(errors='replace').decode()}", err=True)
            code = error.exit_code if isinstance(error, LaunchError) else 1
            sys.exit(2 if isinstance(error, SettingsError) else code)


def _lines(error: Exception) -> list[str]:
    if isinstance(error, TrtTokenizersError):
        return str(error).splitlines()
    if isinstance(error, FileNotFoundError) and not _working_directory_exists():
        return ["the working directory does not exist any more; change to another one"]
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return ["the home directory is unknown; set HOME to a folder"]
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space" if full else "correct the path or its permissions"
        return [f"{where}{error.strerror}; {fix}"]
    return [f"unexpected {one_line(error)}; run it again with --debug, and report the traceback"]


def _working_directory_exists() -> bool:
    try:
        return Path.cwd().is_dir()
    except OSError:
        return False


def pairs(options: Sequence[str]) -> dict[str, str]:
    """Parse options NAME=VALUE. The last value of a name counts.

    Raises:
        SettingsError: an option has no ``=``.
    """
    for option in options:
        if "=" not in option:
            raise SettingsError(f"{option!r} is not NAME=VALUE; write the name, = and the value")
    return dict(option.split("=", 1) for option in options)


def nested(option: str, options: Sequence[str]) -> dict[str, Any]:
    """Parse options NAME=VALUE, A.B=VALUE, … into nested values. A value is JSON or plain text.

    Args:
        option: the option's name, for messages.

    Raises:
        SettingsError: an option has no ``=``, or a name has a value and parts.
    """
    made: dict[str, Any] = {}
    for path, text in pairs(options).items():
        value: Any = text
        with contextlib.suppress(ValueError):  # not JSON: plain text
            value = parse_json(text)
        *groups, name = path.split(".")
        inner = made
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise SettingsError(f"{option} {path}={text}: {group} has a value already")
        inner[name] = value
    return made


def _read_schema(
    context: click.Context, option: click.Parameter, path: Path | None
) -> AnswerSchema | None:
    return AnswerSchema.read(path) if path else None


#: The option --schema FILE; the command gets an AnswerSchema or None.
schema_option: Callable[[Any], Any] = click.option(
    "--schema",
    type=FILE,
    callback=_read_schema,
    help="A file with a JSON schema. Answers must follow it; others are not printed.",
)
