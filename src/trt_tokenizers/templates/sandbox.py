"""The Jinja environment of chat templates: the one that transformers uses, and ``fromjson``.

Jinja's sandbox denies a template files, imports and Python's internals. It limits neither time nor
memory.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Refused(jinja2.TemplateError):
    """A template called ``raise_exception``: it does not accept the conversation."""


def _raise_exception(message: str) -> NoReturn:
    raise Refused(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON text without the HTML escapes of Jinja's own filter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _fromjson(value: Any) -> Any:
    """The value of JSON text: OpenAI's clients send a tool call's arguments as text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise Refused(f"the arguments of a tool call are not JSON: {error}") from None


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's tokens for training; serving ignores it."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def make_environment() -> ImmutableSandboxedEnvironment:
    """An environment without a loader, so that templates read no files."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.filters |= {"tojson": _tojson, "fromjson": _fromjson}
    return environment
