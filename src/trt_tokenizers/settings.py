"""Strings of config.pbtxt and of the command line -> frozen dataclasses.

A model's ``parameters`` in config.pbtxt are strings. `parse` turns them into a dataclass by the
types of its fields and refuses what upstream lets through: an unknown key (with the nearest
known one), a placeholder that nobody filled, a value that is not of its type. An empty value
means "not set" and gives the field's default, as in upstream's own templates.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from trt_tokenizers.errors import SettingsError

T = TypeVar("T")

#: Begins paths inside the model's own folder, as in Triton's EXECUTION_ENV_PATH.
MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


def setting(default: Any, help: str) -> Any:  # noqa: A002 - the field's standard word
    """A dataclass field with its documentation."""
    return dataclasses.field(default=default, metadata={"help": help})


def nearest(name: str, known: Iterable[str]) -> str:
    """« (did you mean 'x'?)» for the known name closest to *name*, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def parse(cls: type[T], raw: Mapping[str, str], where: str) -> T:
    """Fill the dataclass *cls* from strings.

    Args:
        cls: a dataclass whose fields are str, int, float, bool, tuple[str, ...] or tuple[int, ...],
            or one of these ``| None``.
        raw: key -> string, as in config.pbtxt.
        where: named in errors, e.g. ``"model 'preprocessing', config.pbtxt"``.

    Raises:
        SettingsError: unknown key, unfilled placeholder, or a value of another type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, text in raw.items():
        if key not in fields:
            raise SettingsError(
                f"{where}: unknown parameter {key!r}{nearest(key, fields)}; known are: "
                + ", ".join(sorted(fields))
            )
        if "${" in text:
            raise SettingsError(
                f"{where}: parameter {key!r} still holds the placeholder {text!r}; "
                "give it a value, or leave it empty for its default"
            )
        if text != "":
            values[key] = _convert(hints[key], text, f"{where}: parameter {key!r}")
    missing = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and name not in values
    ]
    if missing:
        raise SettingsError(f"{where}: parameter {missing[0]!r} has no value; it must be given")
    return cls(**values)


def _convert(hint: Any, text: str, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return tuple(
            _convert(item, part.strip(), where) for part in text.split(",") if part.strip()
        )
    if hint is str:
        return text
    if hint is bool:
        if text.strip().lower() in _TRUE:
            return True
        if text.strip().lower() in _FALSE:
            return False
        raise SettingsError(f"{where} is {text!r}; expected true or false")
    if hint is int:
        try:
            return int(text)
        except ValueError:
            raise SettingsError(f"{where} is {text!r}; expected a whole number") from None
    if hint is float:
        try:
            value = float(text)
        except ValueError:
            raise SettingsError(f"{where} is {text!r}; expected a number") from None
        if not math.isfinite(value):
            raise SettingsError(f"{where} is {text!r}; expected a finite number")
        return value
    raise TypeError(f"setting type {hint} is not supported")
