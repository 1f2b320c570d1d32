"""Parse strings from config.pbtxt and the command line into frozen dataclasses.

A model's ``parameters`` in config.pbtxt are strings. `parse` converts them to the types of a
dataclass's fields. Unlike NVIDIA's models it refuses an unknown key (and names the nearest known
one) and a value of the wrong type. As in NVIDIA's models, an empty value and an unfilled
``${placeholder}`` mean "not set" and select the field's default.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from trt_tokenizers.errors import SettingsError

T = TypeVar("T")

#: Prefix of a path inside the model's folder, as in Triton's EXECUTION_ENV_PATH.
MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"
#: Parameters that Triton's Python backend reads itself.
_PYTHON_BACKEND = ("FORCE_CPU_ONLY_INPUT_TENSORS", "EXECUTION_ENV_PATH")

#: The only table of words for true and false, in any case. It holds the words of NVIDIA's Python
#: models (true, t, yes, y, 1), of Triton's text format and C++ backend, and also on and off.
BOOL_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}

#: ``${name}`` in a template; the group is the name.
PLACEHOLDER = re.compile(r"\$\{(\w+)\}")

_NUMBERS = {int: "a whole number", float: "a number"}


def parse_bool(text: str) -> bool | None:
    """The value of a word of `BOOL_WORDS`; None for any other text."""
    return BOOL_WORDS.get(text.strip().lower())


def as_text(value: Any) -> str:
    """*value* as a string of config.pbtxt."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def model_settings(parameters: Mapping[str, str], model_directory: str) -> dict[str, str]:
    """The settings among the ``parameters`` of a Python model: those with a value, paths filled."""
    return {
        name: value.replace(MODEL_DIRECTORY, model_directory)
        for name, value in parameters.items()
        if value and name not in _PYTHON_BACKEND
    }


def is_number(kind: type[int] | type[float], text: str) -> bool:
    """Whether *text* is a finite number of this kind."""
    try:
        return math.isfinite(kind(text))
    except (ValueError, OverflowError):
        return False


def setting(default: Any, help: str) -> Any:  # noqa: A002 - the standard name
    """A dataclass field with its documentation."""
    return dataclasses.field(default=default, metadata={"help": help})


def nearest(name: str, known: Iterable[str]) -> str:
    """« (did you mean 'x'?)» with the known name closest to *name*; empty if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def parse(cls: type[T], raw: Mapping[str, str], where: str) -> T:
    """Create an instance of the dataclass *cls* from strings.

    Args:
        cls: a dataclass. Its fields are str, int, float, bool, tuple[str, ...] or
            tuple[int, ...], or one of these ``| None``.
        raw: key -> string, as in config.pbtxt.
        where: the source, for error messages: ``"model 'preprocessing'"``.

    Raises:
        SettingsError: unknown key, wrong type, or missing required value.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, text in raw.items():
        if key not in fields:
            raise SettingsError(
                f"{where}: unknown parameter {key!r}{nearest(key, fields)}; valid are: "
                + ", ".join(sorted(fields))
            )
        if text != "" and not PLACEHOLDER.fullmatch(text):
            values[key] = _convert(hints[key], text, f"{where}: parameter {key!r}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in values:
            raise SettingsError(f"{where}: parameter {name!r} has no value; set it")
    return cls(**values)


def without_none(hint: Any) -> Any:
    """The type X of a hint ``X | None``; any other hint unchanged."""
    if isinstance(hint, types.UnionType):
        return next(a for a in typing.get_args(hint) if a is not types.NoneType)
    return hint


def _convert(hint: Any, text: str, where: str) -> Any:
    hint = without_none(hint)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return tuple(
            _convert(item, part.strip(), where) for part in text.split(",") if part.strip()
        )
    if hint is str:
        return text
    if hint is bool:
        flag = parse_bool(text)
        if flag is None:
            raise SettingsError(f"{where} is {text!r}; expected true or false")
        return flag
    if hint in _NUMBERS:
        if not is_number(hint, text):
            raise SettingsError(f"{where} is {text!r}; expected {_NUMBERS[hint]}")
        return hint(text)
    raise TypeError(f"setting type {hint} is not supported")
