"""config.pbtxt files: read with Triton's own schema, written so that people can read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_WIDTH = 100


def parse_config(text: str) -> Any:
    """A ``tritonclient.grpc.model_config_pb2.ModelConfig``.

    Raises:
        ValueError: *text* does not follow Triton's schema; says the line.
    """
    # The schema comes with the client library, whose import takes a while.
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"not a Triton model configuration: {error}") from None


def format_config(config: Any, comment: str = "") -> str:
    """The text of a ModelConfig: a tensor, a map or a parameter in one line.

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
        parts = ['string_value: ""']  # which a parameter without a value is
    return " ".join(["{", *parts, "}"])


def _entries(message: Any) -> Iterator[tuple[str, Any]]:
    """Name and text of each scalar field, name and message of each other one, in order.

    A map's entries come as messages of their own, by key; so two equal maps look alike.
    """
    if isinstance(message, _Entry):
        yield "key", quoted(message.key)
        value = message.value
        yield "value", quoted(value) if isinstance(value, str) else value
        return
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in sorted(value):
                yield field.name, _Entry(key, value[key])
        elif field.message_type is not None:
            # A message is not iterable, a repeated one has no fields of its own.
            for one in [value] if hasattr(value, "ListFields") else value:
                yield field.name, one
        elif isinstance(value, (str, bytes, bool, int, float)):
            yield field.name, _scalar(field, value)
        elif field.cpp_type == field.CPPTYPE_STRING:
            for one in value:
                yield field.name, _scalar(field, one)
        else:
            yield field.name, f"[ {', '.join(_scalar(field, one) for one in value)} ]"


class _Entry:
    """One entry of a map."""

    def __init__(self, key: str, value: Any) -> None:
        self.key = key
        self.value = value


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
    """*value* as it stands between quotes, single or double, whatever characters it has."""
    return "".join(
        c if c.isprintable() and c.isascii() and c not in "\"'\\" else _octal(c) for c in value
    )


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
