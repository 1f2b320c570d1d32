"""How large one value of a template may be, and what a method or a filter would make of it.

Looked at before it is made where that can be foreseen. Where work grows with the product of two
lengths, the product is bounded: C code does not look at a clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

import jinja2
from jinja2.utils import Namespace

MAX_CHARACTERS = 1 << 24  #: of one text
MAX_ITEMS = 200_000  #: of a list or mapping, nested ones included
MAX_BITS = 4096  #: of an integer
_MAX_STEPS = 1 << 28  # of a search that compares each character of one text with each of another
_MAX_DIGITS = 308  # that a number is rounded to; a float has no more
_MAX_SEPARATOR = 64

_PLAIN = frozenset((int, float, bool, NoneType))
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_HOLDERS: tuple[type, ...] = (list, tuple, dict, Namespace, *_VIEWS)
#: A width of four digits or more, one from a variable, or a field that holds fields.
_WIDE_FORMAT = re.compile(
    r"%(?:\([^()]*\))?[^a-zA-Z%]*(?:\d{4}|\*)|%\([^()]*\(|\{[^}]*(?:\d{4}|\{)"
)


class TooMuchError(jinja2.TemplateError):
    """A template went over one of the bounds."""


def refuse_over(size: int, limit: int) -> None:
    if size > limit:
        raise TooMuchError(f"one value would have the size {size}; at most {limit} is served")


def _refuse_steps(text: str, other: Any) -> None:
    if isinstance(other, str) and len(text) * len(other) > _MAX_STEPS:
        raise TooMuchError(f"a text of {len(other)} characters is looked for in one of {len(text)}")


def size_of(value: Any) -> int:
    """Characters in *value* and what it holds.

    Raises:
        TooMuchError: more than one value may have.
    """
    if isinstance(value, str):
        refuse_over(len(value), MAX_CHARACTERS)
        return len(value)
    if type(value) in _PLAIN or not isinstance(value, _HOLDERS):
        return 0
    characters = items = 0
    stack: list[Any] = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            characters += len(part)
            refuse_over(characters, MAX_CHARACTERS)
        elif isinstance(part, _HOLDERS):
            if isinstance(part, Namespace):
                part = part._Namespace__attrs
            items += len(part)
            refuse_over(items, MAX_ITEMS)
            stack.extend(part)
            if isinstance(part, dict):
                stack.extend(part.values())
    return characters


def check_format(text: str, mark: str, *values: Any) -> None:
    if _WIDE_FORMAT.search(text):
        raise TooMuchError("a format has a width of four digits or more, or one from a variable")
    # A container may be written out for every mark, escapes and quotes included.
    refuse_over(text.count(mark) * (1000 + sum(4 * size_of(v) for v in values)), MAX_CHARACTERS)


def checked_method(
    text: str, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The arguments of a method of *text*, once its result is known to be bounded."""
    given = (*args, *kwargs.values())
    for value in given:
        if isinstance(value, int):
            refuse_over(value, MAX_CHARACTERS)
    check = _METHOD_CHECKS.get(method)
    if check is not None:
        check(text, *given)
    if method == "join" and args:
        check_items(args[0])
        parts = [str(part) for part in args[0]]
        refuse_over(sum(map(len, parts)) + len(text) * len(parts), MAX_CHARACTERS)
        return (parts,)
    if method in ("split", "rsplit") and not kwargs and len(args) < 2:
        # One more than may be is seen afterwards, millions of them would be made first.
        return (args[0] if args else None, MAX_ITEMS)
    return args


def _not_served(*_: Any) -> None:
    raise TooMuchError("str.encode and str.translate are not served")


def _check_tabs(text: str, width: Any = 8, *_: Any) -> None:
    refuse_over(text.count("\t") * width, MAX_CHARACTERS)


def _check_lines(text: str, *_: Any) -> None:
    refuse_over(text.count("\n") + text.count("\r"), MAX_ITEMS)


def _check_replace(text: Any, old: Any = "", new: Any = "", *_: Any, **__: Any) -> None:
    refuse_over(str(text).count(str(old)) * len(str(new)), MAX_CHARACTERS)


def _check_search(text: Any, *given: Any, **more: Any) -> None:
    for value in (*given, *more.values()):
        _refuse_steps(str(text), value)


def _check_braces(text: str, *values: Any) -> None:
    refuse_over(len(text), MAX_ITEMS)  # each field may go from item to item
    check_format(text, "{", *values)


_METHOD_CHECKS: dict[str, Callable[..., None]] = {
    "replace": _check_replace,
    "format": _check_braces,
    "format_map": _check_braces,
    "expandtabs": _check_tabs,
    "splitlines": _check_lines,
    # Searches from behind and sets of characters know no shortcut, those from the front do.
    **dict.fromkeys(
        ("rfind", "rindex", "rsplit", "rpartition", "strip", "lstrip", "rstrip"), _check_search
    ),
    "encode": _not_served,
    "translate": _not_served,
}


def check_items(value: Any, *_: Any, **__: Any) -> None:
    """Of what is gone through one by one; a text's characters are items too."""
    if hasattr(value, "__len__"):
        refuse_over(len(value), MAX_ITEMS)


def _check_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    width = width if isinstance(width, int) else len(str(width))
    refuse_over((str(text).count("\n") + 1) * width, MAX_CHARACTERS)


def _check_width(_: Any, width: Any = 0, *__: Any, **___: Any) -> None:
    refuse_over(int(width), MAX_CHARACTERS)


def _check_batch(value: Any, number: Any = 0, *_: Any, **__: Any) -> None:
    check_items(value)
    refuse_over(int(number), MAX_ITEMS)


def _check_round(_: Any, precision: Any = 0, *__: Any, **___: Any) -> None:
    refuse_over(abs(int(precision)), _MAX_DIGITS)


def _check_int(value: Any, *_: Any, **__: Any) -> None:
    if isinstance(value, str):
        refuse_over(len(value), MAX_BITS)


def _check_tojson(
    value: Any,
    ensure_ascii: Any = False,
    indent: Any = None,
    separators: Any = None,
    *_: Any,
    **__: Any,
) -> None:
    if indent is not None:
        refuse_over(len(indent) if isinstance(indent, str) else int(indent), _MAX_SEPARATOR)
    for separator in separators or ():
        refuse_over(size_of(separator), _MAX_SEPARATOR)


FILTER_CHECKS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(
        ("groupby", "join", "list", "map", "max", "min", "reject", "rejectattr", "select",
         "selectattr", "sort", "sum", "title", "unique", "urlencode", "wordcount"),
        check_items,
    ),
    "replace": _check_replace,
    "indent": _check_indent,
    "center": _check_width,
    "batch": _check_batch,
    "slice": _check_batch,
    "round": _check_round,
    "int": _check_int,
    "trim": _check_search,
    "tojson": _check_tojson,
    "format": lambda text, *args, **kwargs: check_format(str(text), "%", *args, *kwargs.values()),
}  # fmt: skip
