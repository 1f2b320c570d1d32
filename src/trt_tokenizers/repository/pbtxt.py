"""Read config.pbtxt with Triton's own schema, and write it in a readable form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

_WIDTH = 100


def parse_config(text: str) -> Any:
    """A ``tritonclient.grpc.model_config_pb2.ModelConfig``.

    Raises:
        ValueError: *text* does not follow Triton's schema; the message names line and column.
    """
    # Imported late: the client library is slow to import.
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"not a Triton model configuration: {error}") from None


def format_config(config: Any, comment: str = "") -> str:
    """The text of a ModelConfig. A tensor, a map entry or a parameter takes one line if it fits.

    Args:
        comment: the first line, without its ``#``.
    """
    head = f"# {comment}\n" if comment else ""
    return head + "\n".join(_lines(config, "")) + "\n"


def _lines(message: Any, indent: str) -> Iterator[str]:
    for name, value in _entries(message):
        if isinstance(value, str):
            yield f"{indent}{name}: {value}"
            continue
        line = f"{indent}{name} {_one_line(value)}"
        if len(line) <= _WIDTH:
            yield line
        else:
            yield f"{indent}{name} {{"
            yield from _lines(value, indent + "  ")
            yield f"{indent}}}"


def _one_line(message: Any) -> str:
    parts = [
        f"{name}: {value}" if isinstance(value, str) else f"{name} {_one_line(value)}"
        for name, value in _entries(message)
    ]
    if not parts and hasattr(message, "string_value"):
        parts = ['string_value: ""']  # a parameter without a value
    return " ".join(["{", *parts, "}"])


def _entries(message: Any) -> Iterator[tuple[str, Any]]:
    """Name and text of each scalar field, name and message of each other field.

    A map yields one `_MapEntry` per key, sorted by key, so that equal maps have equal texts.
    """
    if isinstance(message, _MapEntry):
        yield "key", quoted(message.key)
        value = message.value
        yield "value", quoted(value) if isinstance(value, str) else value
        return
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in sorted(value):
                yield field.name, _MapEntry(key, value[key])
        elif field.message_type is not None:
            # A single message has ListFields; a repeated field is iterable instead.
            for item in [value] if hasattr(value, "ListFields") else value:
                yield field.name, item
        elif isinstance(value, (str, bytes, bool, int, float)):
            yield field.name, _scalar(field, value)
        elif field.cpp_type == field.CPPTYPE_STRING:
            for item in value:
                yield field.name, _scalar(field, item)
        else:
            yield field.name, f"[ {', '.join(_scalar(field, item) for item in value)} ]"


class _MapEntry(NamedTuple):
    """One entry of a protobuf map."""

    key: str
    value: Any


def _scalar(field: Any, value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name)
    return repr(value)


def quoted(value: str) -> str:
    """*value* as a string of the text format."""
    return f'"{escaped(value)}"'


def escaped(value: str) -> str:
    """*value* escaped for use inside single or double quotes of the text format."""
    return "".join(
        c if c.isprintable() and c.isascii() and c not in "\"'\\" else _octal(c) for c in value
    )


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
