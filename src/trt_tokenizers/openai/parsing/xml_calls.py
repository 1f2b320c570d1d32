"""Calls whose parameters are elements, each with a value that is text or JSON."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trt_tokenizers.openai.parsing.answer import Answer, Call
from trt_tokenizers.openai.parsing.reader import Steps, literal

_PYTHON = {"True": "true", "False": "false", "None": "null"}
_KINDS = {
    dict: "object", list: "array", bool: "boolean", int: "integer", float: "number",
    type(None): "null",
}  # fmt: skip
_TYPE = re.compile(r'\b(?:type|string)="(\w+)"')
_NAME = re.compile(r"[^\s<>{}\"]{1,256}")
#: A value that may be null is passed on as text once it is longer.
_LONGEST_NULL = len("\nNone\n")


@dataclass(frozen=True)
class ElementForm:
    """The markup of a family.

    Attributes:
        begin, end: around one or more calls.
        call: before a call's name.
        name_end: after the name; empty: the first parameter or `call_end` ends it.
        call_head: the end of the element's attributes, after `name_end`; empty: it has none.
        call_end: after the parameters.
        parameter, key_end, parameter_head: the same of a parameter.
        value_end: after a value. It ends it only if a parameter or the end of the call follows:
            the same text may be part of a value.
        newlines: a newline before and one after a value are markup.
    """

    begin: str
    end: str
    call: str
    name_end: str
    call_head: str
    call_end: str
    parameter: str
    key_end: str
    parameter_head: str
    value_end: str
    newlines: bool = False

    def read(self, answer: Answer, found: str) -> Steps[None]:
        reader = answer.reader
        if found == self.begin != self.call:
            reader.keep(found)
            following = yield from reader.follows((self.call,))
            if following == "":
                reader.rest()
            if not following:
                answer.not_a_call()
                return
            reader.skip(self.call)
        else:
            reader.keep(found)
        while (yield from self._call(answer)):
            following = yield from reader.follows((self.call, self.end))
            if following == "":
                reader.rest()
            if not following:
                return
            reader.keep()
            reader.skip(following)
            if following == self.end != self.call:
                reader.release()
                return

    def _call(self, answer: Answer) -> Steps[bool]:
        """Read a call after `call`. Returns whether it is whole."""
        reader = answer.reader
        if self.name_end:
            name, stop = yield from reader.collect((self.name_end, "\n"))
        else:
            name, stop = yield from reader.collect((self.parameter, self.call_end))
            if stop:
                reader.back(stop)
        name = html.unescape(name.strip())
        attributes = ""
        if self.call_head and stop == self.name_end:
            attributes, stop = yield from reader.collect((self.call_head,))
        if not stop or stop == "\n" or not _NAME.fullmatch(name):
            answer.not_a_call()
            return False
        call = answer.call(name)
        if attributes.endswith("/"):
            answer.arguments(call, "{}")
            answer.end(call)
            return True
        before = "{"
        following: str | None = self.parameter
        while following:
            following = yield from reader.follows((self.parameter, self.call_end))
            if following == "":
                reader.rest()
            elif following:
                reader.skip(following)
            if following == self.call_end:
                answer.arguments(call, "{}" if before == "{" else "}")
                answer.end(call)
                return True
            if not following or not (yield from self._parameter(answer, call, before)):
                return False
            before = ", "
        return False

    def _parameter(self, answer: Answer, call: Call, before: str) -> Steps[bool]:
        """Read a parameter after `parameter`. Returns whether its value has an end."""
        reader = answer.reader
        key, stop = yield from reader.collect((self.key_end,))
        attributes = ""
        if self.parameter_head and stop:
            attributes, stop = yield from reader.collect((self.parameter_head,))
        if not stop:
            return False
        key = html.unescape(key.strip())
        types = _attribute_types(attributes) or parameter_types(answer.tools.get(call.name), key)
        value = _Value(answer, call, types, f"{before}{json.dumps(key, ensure_ascii=False)}: ")
        if self.newlines:
            yield from reader.accept("\n")
        inner = tuple(f"\n{stop}" for stop in self._value_stops()) if self.newlines else ()
        while True:
            stop = yield from reader.until((*inner, *self._value_stops()), value.text)
            if stop is None:
                return False
            if (yield from self._ends_value(answer, stop)):
                value.close()
                return True
            value.text(stop)

    def _value_stops(self) -> tuple[str, ...]:
        if self.newlines:
            return (self.value_end, self.parameter, self.call_end)
        return (self.value_end, self.call_end)

    def _ends_value(self, answer: Answer, stop: str) -> Steps[bool]:
        """Whether *stop*, which is read, ends the value. If it is no `value_end`, it is unread."""
        reader = answer.reader
        bare = stop.removeprefix("\n") if self.newlines else stop
        if bare == self.value_end:
            return bool((yield from reader.follows((self.parameter, self.call_end))))
        if bare == self.parameter:  # the end of the value is missing
            ends = stop != bare
        else:
            after = tuple(m for m in (self.end, self.begin) if m != self.call_end)
            found = yield from reader.follows(after)
            ends = bool(found) or (found == "" and not reader.cut)
        if ends:
            reader.back(bare)
        return ends


class _Value:
    """A parameter's value, passed on as JSON."""

    def __init__(self, answer: Answer, call: Call, types: frozenset[str], before: str) -> None:
        self._answer = answer
        self._call = call
        self._types = types
        self._before = before
        self._held = ""
        self._quoted = types == {"string"}
        if self._quoted:
            answer.arguments(call, f'{before}"')

    def text(self, text: str) -> None:
        text = self._held + literal(text)
        if not self._quoted:
            if "string" not in self._types or len(text) <= _LONGEST_NULL:
                self._held = text
                return
            self._answer.arguments(self._call, f'{self._before}"')
            self._quoted, self._held = True, ""
        self._answer.arguments(self._call, json.dumps(text, ensure_ascii=False)[1:-1])

    def close(self) -> None:
        text = '"' if self._quoted else self._before + typed(self._held, self._types)
        self._answer.arguments(self._call, text)


def typed(text: str, types: frozenset[str]) -> str:
    """*text* as JSON of one of *types*, or as a string if it is of none of them.

    Args:
        text: JSON, or a literal of Python.
        types: of JSON Schema; empty: any.
    """
    bare = text.strip()
    bare = _PYTHON.get(bare, bare)
    try:
        value = json.loads(bare, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    kind = _KINDS.get(type(value), "string")
    allowed = types - {"string"} if types != {"string"} else types
    if "string" in types and kind != "null":
        return json.dumps(text, ensure_ascii=False)
    if not types or kind in allowed or (kind == "integer" and "number" in allowed):
        return bare if kind != "string" else json.dumps(value, ensure_ascii=False)
    if kind == "number" and "integer" in allowed and value.is_integer():
        return bare
    return json.dumps(text, ensure_ascii=False)


def parameter_types(schema: Mapping[str, Any] | None, key: str) -> frozenset[str]:
    """The JSON types that *schema*, of a tool's parameters, allows for *key*; empty: any."""
    properties = (schema or {}).get("properties")
    return frozenset(_types(properties.get(key)) if isinstance(properties, Mapping) else ())


def _types(schema: Any, depth: int = 0) -> set[str]:
    if not isinstance(schema, Mapping) or depth > 8:
        return set()
    declared = schema.get("type")
    found = {declared} if isinstance(declared, str) else set()
    if isinstance(declared, list):
        found.update(kind for kind in declared if isinstance(kind, str))
    for union in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(union)
        for choice in choices if isinstance(choices, list) else ():
            found |= _types(choice, depth + 1)
    if not found and isinstance(schema.get("enum"), list):
        found.update(_KINDS.get(type(value), "string") for value in schema["enum"])
    return found


def _attribute_types(attributes: str) -> frozenset[str]:
    """Types by the attribute ``string="true"`` or ``type="number"``."""
    match = _TYPE.search(attributes)
    if match is None:
        return frozenset()
    kind = {"true": "string", "false": ""}.get(match.group(1), match.group(1))
    return (
        frozenset({kind})
        if kind == "string"
        else frozenset({"object", "array", "boolean", "integer", "number", "null"})
    )
