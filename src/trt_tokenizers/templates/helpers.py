"""What chat templates call beside Jinja's own, as Hugging Face's renderer has it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2

from trt_tokenizers.templates.bounds import MAX_CHARACTERS, refuse_over


class Refused(jinja2.TemplateError):
    """A template called raise_exception: the conversation does not suit it."""


def _raise_exception(message: str) -> NoReturn:
    raise Refused(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern[:256])


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which no prompt wants.
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if indent is None:
        return encoder.encode(value)
    pieces, characters = [], 0
    for piece in encoder.iterencode(value):  # each item is indented as deep as it lies
        characters += len(piece)
        refuse_over(characters, MAX_CHARACTERS)
        pieces.append(piece)
    return "".join(pieces)


def _fromjson(value: Any) -> Any:
    # OpenAI's clients send a call's arguments as text; some forms lay them out anew.
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise Refused(f"the arguments of a tool call are not JSON: {error}") from None


GLOBALS = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
FILTERS = {"tojson": _tojson, "fromjson": _fromjson}
