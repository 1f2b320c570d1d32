"""Calls whose arguments are JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from trt_tokenizers.openai.parsing.answer import Answer, Call
from trt_tokenizers.openai.parsing.reader import Reader, Sink, Steps, literal

_IN_STRING = re.compile('["\\\\\x00-\x1f]')
_OUTSIDE = re.compile(r'["{}\[\]]|[^\s0-9eE+\-.,:a-z]')
_SCALAR_END = re.compile(r'[\s,}\]<"]')
_NAME = "name"
_ARGUMENTS = ("arguments", "parameters")
#: Keys beside them, without which a JSON object without a marker is no call.
_OTHER = ("type", "id")


# JSON text

_DEPTH = {'"': 0, "{": 1, "[": 1, "}": -1, "]": -1}


class _Scan:
    """Where JSON text ends that comes in parts."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self._depth = 0
        self._quoted = False

    def scan(self, text: str, start: int) -> tuple[int, bool | None]:
        """Pass on *text* from *start*. Returns where it stopped and why.

        True is the end of the JSON text, False what is not JSON, None the end of *text*.
        """
        at = start
        done = None
        while done is None and at < len(text):
            match = (_IN_STRING if self._quoted else _OUTSIDE).search(text, at)
            if match is None:
                at = len(text)
                break
            at, character = match.end(), match.group()
            if character == "\\" and self._quoted:
                if at == len(text):
                    at -= 1
                    break
                at += 1
            elif character in _DEPTH:
                self._depth += 0 if self._quoted else _DEPTH[character]
                self._quoted = character == '"' and not self._quoted
                done = True if not (self._depth or self._quoted) else None
            elif self._quoted:
                self.passed += (text[start : at - 1], f"\\u{ord(character):04x}")
                start = at
            else:
                at -= 1
                done = False
        self.passed.append(text[start:at])
        return at, done


def json_text(reader: Reader, sink: Sink) -> Steps[bool]:
    """Read an object, an array or a string, and pass its text on as it comes.

    Control characters in strings are escaped. Returns False where the text is not JSON, and at the
    end of the answer.
    """
    scan = _Scan()
    while True:
        reader.position, done = scan.scan(reader.text, reader.position)
        if passed := literal("".join(scan.passed)):
            sink(passed)
        scan.passed.clear()
        if done is not None:
            return done
        if reader.ended:
            if backslash := reader.rest():
                sink(backslash)
            return False
        yield


def json_value(reader: Reader, sink: Sink) -> Steps[bool]:
    """Read a JSON value after white space. Returns False if it is not one, or is not complete."""
    first = yield from reader.peek()
    if first in ("{", "[", '"'):
        return (yield from json_text(reader, sink))
    while True:
        match = _SCALAR_END.search(reader.text, reader.position)
        stop = match.start() if match else len(reader.text)
        text, reader.position = reader.text[reader.position : stop], stop
        if text:
            sink(literal(text))
        if match:
            return True
        if reader.ended:
            return False
        yield


def json_string(reader: Reader) -> Steps[str | None]:
    """Read a JSON string after white space."""
    if (yield from reader.peek()) != '"':
        return None
    parts: list[str] = []
    if not (yield from json_text(reader, parts.append)):
        return None
    try:
        value = json.loads("".join(parts))
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def json_arguments(answer: Answer, call: Call) -> Steps[bool]:
    """Read a call's arguments: an object, a string that holds one, or null."""
    reader = answer.reader
    first = yield from reader.peek()
    if first == "{":
        return (yield from json_text(reader, lambda text: answer.arguments(call, text)))
    if first == '"':
        text = yield from json_string(reader)
    else:
        parts: list[str] = []
        complete = yield from json_value(reader, parts.append)
        text = "{}" if complete and parts == ["null"] else None
    if text:
        answer.arguments(call, text)
    return text is not None


# {"name": ..., "arguments": {...}}


@dataclass
class _Object:
    """An object that may be a call, as far as it is read."""

    name: str | None = None
    call: Call | None = None
    early: list[str] = field(default_factory=list)  # arguments that came before the name


def _named_object(answer: Answer, alone: bool) -> Steps[Call | None]:
    """Read an object that holds a name and arguments.

    The call begins when both are known. *alone*: without a marker, so that the object may be
    content: it is a call if it has a tool's name, arguments, and nothing that a call does not have.

    Returns None if it is no call, or not a whole one.
    """
    reader = answer.reader
    found = _Object()
    yield from reader.peek()
    if not (yield from reader.accept("{")):
        return None
    while (character := (yield from reader.peek())) != "}":
        if character == ",":
            reader.position += 1
        elif not (yield from _member(answer, found, alone)):
            return None
    reader.position += 1
    if found.call is None and found.name is not None and (found.early or not alone):
        found.call = answer.call(found.name)
        answer.arguments(found.call, "".join(found.early) or "{}")
    return found.call


def _member(answer: Answer, found: _Object, alone: bool) -> Steps[bool]:
    """Read a key and its value. Returns whether the object may still be a call."""
    reader = answer.reader
    key = yield from json_string(reader)
    if key is None or (yield from reader.peek()) != ":":
        return False
    reader.position += 1
    if key == _NAME and found.name is None:
        found.name = yield from json_string(reader)
        return found.name is not None and not (
            alone and answer.tools and found.name not in answer.tools
        )
    if key in _ARGUMENTS and found.call is None:
        if found.name is None:
            return (yield from json_value(reader, found.early.append))
        found.call = answer.call(found.name)
        return (yield from json_arguments(answer, found.call))
    if alone and key not in _OTHER:
        return False
    return (yield from json_value(reader, _drop))


def object_calls(answer: Answer, close: str = "", *, alone: bool = False) -> Steps[None]:
    """Read an object that is a call, or an array of them, and *close*. The text is kept already.

    Args:
        answer: being read.
        close: the marker after it; empty: it needs none.
        alone: it has no marker before it, and what is no call is content.
    """
    reader = answer.reader
    array = (yield from reader.peek()) == "["
    if array:
        reader.position += 1
    call = yield from _object_call(answer, close, alone)
    if close and not array:
        if call:
            yield from close_call(answer, call, close)
        return
    separators = (",", "]") if array else (";", "{")
    while call:
        answer.end(call)
        following = yield from reader.follows(separators)
        if following and following != "{":
            reader.skip(following)
        if not following or following == "]":
            break
        if not array:
            reader.keep()
        call = yield from _object_call(answer, close, alone)
    if close and call and (yield from reader.follows((close,))):
        reader.skip(close)


def _object_call(answer: Answer, close: str, alone: bool) -> Steps[Call | None]:
    """Read one object. What is not a whole call is read to *close*, or is content."""
    reader = answer.reader
    call = yield from _named_object(answer, alone)
    if call is None:
        if alone and reader.keeping:
            answer.content(reader.kept())
            return None
        if close:
            yield from reader.until((close,), _drop)
        if reader.keeping:
            answer.not_a_call()
    return call


def close_call(answer: Answer, call: Call, close: str) -> Steps[None]:
    """Read *close*, and end a call whose arguments are complete, unless it was cut before that."""
    reader = answer.reader
    following = yield from reader.follows((close,))
    if following:
        reader.skip(close)
    elif following == "":
        reader.rest()
    if not (following == "" and reader.cut):
        answer.end(call)


def _drop(text: str) -> None:
    pass


# name, then JSON


def named_arguments(
    answer: Answer, name_of: Callable[[str], str], close: str, stops: tuple[str, ...]
) -> Steps[bool]:
    """Read the head of a call, its arguments as a JSON object, and *close*.

    Args:
        answer: being read.
        name_of: the head, the text before the arguments -> the name, or "" if it has none.
        close: the marker after the arguments; empty: there is none.
        stops: markers that cannot be in a head.

    Returns:
        Whether a call has begun.
    """
    reader = answer.reader
    head, stop = yield from reader.collect(("{", *stops))
    if stop:
        reader.back(stop)
    name = name_of(head) if stop == "{" else ""
    if not name:
        return False
    call = answer.call(name)
    if not (yield from json_arguments(answer, call)):
        return True
    if not close:
        answer.end(call)
        return True
    if (yield from reader.follows(("```",))):
        reader.skip("```")
    yield from close_call(answer, call, close)
    return True


def sections(
    begin: str, call: str, close: str, end: str, name_of: Callable[[str], str]
) -> Callable[[Answer, str], Steps[None]]:
    """Reader of calls between *begin* and *end*. Text there outside a call is not content."""

    def read(answer: Answer, found: str) -> Steps[None]:
        reader = answer.reader
        while found != end:
            if found == call:
                yield from named_arguments(answer, name_of, close, (call, close, end))
            stop = yield from reader.until((call, end), _drop)
            if stop is None:
                return
            found = stop

    return read
