"""One renderer for every chat template: sandboxed Jinja with the helpers such templates expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trt_tokenizers.errors import RequestError, TemplateError
from trt_tokenizers.settings import nearest
from trt_tokenizers.templates.messages import Message


class _Refused(jinja2.TemplateError):
    """A template called raise_exception: the conversation does not suit it."""


def _raise_exception(message: str) -> NoReturn:
    raise _Refused(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which no prompt wants.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """A compiled template.

    Attributes:
        name: for errors and logs.
    """

    def __init__(self, name: str, source: str) -> None:
        """
        Raises:
            TemplateError: *source* is not valid Jinja; names template and line.
        """
        self.name = name
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"template {name!r}, line {error.lineno}: {error.message}; correct the template"
            ) from error

    def render(self, messages: Sequence[Message], special_tokens: Mapping[str, str]) -> str:
        """The prompt for *messages*, ending where the assistant's answer begins.

        Raises:
            RequestError: the conversation does not suit the template.
        """
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, **special_tokens
            )
        except _Refused as error:
            raise RequestError(f"template {self.name!r} refuses these messages: {error}") from None
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise RequestError(
                f"template {self.name!r} fails on these messages: {error}; "
                "send other messages, or have the server's template corrected"
            ) from None


def named_templates() -> list[str]:
    """Names that `load` knows, beside ``auto`` and ``none``."""
    folder = files("trt_tokenizers.templates") / "named"
    return sorted(
        entry.name.removesuffix(".jinja")
        for entry in folder.iterdir()
        if entry.name.endswith(".jinja")
    )


def load(name: str, chat_template: str | None) -> ChatTemplate | None:
    """The template called *name*.

    Args:
        name: a named template; ``auto`` for the tokenizer's own; ``none`` for no template.
        chat_template: the tokenizer's own, if it has one.

    Returns:
        None for ``none``, and for ``auto`` where the tokenizer brought none.

    Raises:
        TemplateError: the name is unknown, or the template does not compile.
    """
    if name == "none":
        return None
    if name == "auto":
        return ChatTemplate("auto", chat_template) if chat_template else None
    known = named_templates()
    if name not in known:
        raise TemplateError(
            f"unknown template {name!r}{nearest(name, known)}; known are: "
            f"auto, none, {', '.join(known)}"
        )
    path = files("trt_tokenizers.templates") / "named" / f"{name}.jinja"
    return ChatTemplate(name, path.read_text(encoding="utf-8"))
