"""Calls whose arguments are JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from trt_tokenizers.openai.parsing.answer import Answer, Call
from trt_tokenizers.openai.parsing.reader import Reader, Sink, Steps, literal

_IN_STRING = re.compile('["\\\\\x00-\x1f]')
_OUTSIDE = re.compile(r'["{}\[\]]|[^\s0-9eE+\-.,:a-z]')
_SCALAR_END = re.compile(r'[\s,}\]<"]')
_NAMES = ("name",)
_ARGUMENTS = ("arguments", "parameters")
#: Keys beside them, without which a JSON object without a marker is no call.
_OTHER = ("type", "id")


# JSON text


def json_text(reader: Reader, sink: Sink) -> Steps[bool]:
    """Read an object, an array or a string, and pass its text on as it comes.

    Control characters in strings are escaped. Returns False where the text is not JSON, and at the
    end of the answer.
    """
    depth = 0
    quoted = False
    while True:
        text, start = reader.text, reader.position
        at = start
        done: bool | None = None
        parts: list[str] = []
        while done is None and at < len(text):
            match = (_IN_STRING if quoted else _OUTSIDE).search(text, at)
            if match is None:
                at = len(text)
                break
            at, character = match.end(), match.group()
            if quoted:
                if character == '"':
                    quoted = False
                    done = True if depth == 0 else None
                elif character == "\\":
                    if at == len(text):
                        at -= 1
                        break
                    at += 1
                else:
                    parts += (text[start : at - 1], f"\\u{ord(character):04x}")
                    start = at
            elif character == '"':
                quoted = True
            elif character in "{[":
                depth += 1
            elif character in "}]":
                depth -= 1
                done = True if depth == 0 else None
            else:
                at -= 1
                done = False
        reader.position = at
        parts.append(text[start:at])
        if passed := literal("".join(parts)):
            sink(passed)
        if done is not None:
            return done
        if reader.ended:
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


def _named_object(answer: Answer, alone: bool) -> Steps[Call | None]:
    """Read an object that holds a name and arguments.

    The call begins when both are known. *alone*: without a marker, so that the object may be
    content: it is a call if it has a tool's name, arguments, and nothing that a call does not have.

    Returns None if it is no call, or not a whole one.
    """
    reader = answer.reader
    name: str | None = None
    call: Call | None = None
    early: list[str] = []
    if not (yield from reader.accept("{")):
        return None
    while (character := (yield from reader.peek())) != "}":
        if character == ",":
            reader.position += 1
            continue
        key = yield from json_string(reader)
        if key is None or (yield from reader.peek()) != ":":
            return None
        reader.position += 1
        if key in _NAMES and name is None:
            name = yield from json_string(reader)
            if name is None or (alone and answer.tools and name not in answer.tools):
                return None
        elif key in _ARGUMENTS and call is None:
            if name is None:
                if not (yield from json_value(reader, early.append)):
                    return None
                continue
            call = answer.call(name)
            if not (yield from json_arguments(answer, call)):
                return None
        elif alone and key not in _OTHER:
            return None
        elif not (yield from json_value(reader, lambda text: None)):
            return None
    reader.position += 1
    if call is None and name is not None and (early or not alone):
        call = answer.call(name)
        answer.arguments(call, "".join(early) or "{}")
    return call


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
    begun = answer.calls
    while True:
        yield from reader.peek()
        call = yield from _named_object(answer, alone)
        if call is None:
            if answer.calls == begun:
                yield from _malformed(answer, close, alone)
            elif close:
                yield from reader.until((close,), _drop)
            return
        if close and not array:
            break
        answer.end(call)
        following = yield from reader.follows((",", "]") if array else (";", "{"))
        if not following:
            break
        if following != "{":
            reader.skip(following)
        if following == "]":
            break
        if not array:
            begun = answer.calls
            reader.keep()
    if close:
        following = yield from reader.follows((close,))
        if following:
            reader.skip(close)
        if not array and not (following == "" and reader.cut):
            answer.end(call)


def _malformed(answer: Answer, close: str, alone: bool) -> Steps[None]:
    reader = answer.reader
    if alone:
        answer.content(reader.kept())
        return
    if close:
        yield from reader.until((close,), _drop)
    answer.not_a_call()


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
    ends = yield from reader.follows((close,))
    if ends:
        reader.skip(close)
    if not (ends == "" and reader.cut):
        answer.end(call)
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
