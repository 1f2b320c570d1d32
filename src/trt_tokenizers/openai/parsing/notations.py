"""Calls in notations of their own, which are read as JSON: Gemma's objects and Python's calls."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable

from trt_tokenizers.openai.parsing.answer import Answer, Call
from trt_tokenizers.openai.parsing.json_calls import close_call, json_string, json_text
from trt_tokenizers.openai.parsing.reader import Reader, Steps, literal
from trt_tokenizers.openai.parsing.xml_calls import typed

_NAME = re.compile(r"[^\s(){}\[\]<>'\",=:]{1,256}")
_ANY: frozenset[str] = frozenset()


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# call:name{key:<|"|>text<|"|>,other:[1,{inner:true}]}


def brace_calls(close: str, quote: str) -> Callable[[Answer, str], Steps[None]]:
    """Reader of a call in braces, with bare keys and strings between *quote*, until *close*."""

    def read(answer: Answer, found: str) -> Steps[None]:
        reader = answer.reader
        reader.keep(found)
        head, stop = yield from reader.collect(("{", close, "\n"))
        name = head.strip().removeprefix("call:")
        if stop != "{" or not _NAME.fullmatch(name):
            answer.not_a_call()
            return
        call = answer.call(name)
        answer.arguments(call, "{")
        if (yield from _braces(answer, call, quote)):
            yield from close_call(answer, call, close)
        else:
            yield from reader.until((close,), lambda text: None)

    return read


def _braces(answer: Answer, call: Call, quote: str) -> Steps[bool]:
    """Read the rest of an object after its brace. Returns whether it has an end."""
    reader = answer.reader
    open_: list[str] = ["}"]
    key = True
    while open_:
        character = yield from reader.peek()
        if not character:
            return False
        if character in "}]":
            if character != open_.pop():
                return False
            reader.position += 1
            answer.arguments(call, character)
        elif character == ",":
            reader.position += 1
            answer.arguments(call, ", ")
            key = open_[-1] == "}"
        elif character in "{[" and not key:
            reader.position += 1
            answer.arguments(call, character)
            open_.append("}" if character == "{" else "]")
            key = character == "{"
        elif key:
            name = yield from _key(reader, quote)
            if name is None:
                return False
            answer.arguments(call, f"{_quote(name)}: ")
            key = False
        elif not (yield from _scalar(answer, call, quote)):
            return False
    return True


def _key(reader: Reader, quote: str) -> Steps[str | None]:
    if (yield from reader.follows((quote, '"'))) == '"':
        name = yield from json_string(reader)
        return (
            name if name is not None and (yield from reader.peek()) and reader.read(":") else None
        )
    name, stop = yield from reader.collect((":", "{", "}"))
    return name.strip().removeprefix(quote).removesuffix(quote) if stop == ":" else None


def _scalar(answer: Answer, call: Call, quote: str) -> Steps[bool]:
    reader = answer.reader
    following = yield from reader.follows((quote, '"'))
    if following == '"':
        return (yield from json_text(reader, lambda text: answer.arguments(call, text)))
    if following:
        reader.skip(quote)
        answer.arguments(call, '"')
        stop = yield from reader.until(
            (quote,), lambda text: answer.arguments(call, _quote(literal(text))[1:-1])
        )
        if stop:
            answer.arguments(call, '"')
        return stop is not None
    text, stop = yield from reader.collect((",", "}", "]"))
    if stop:
        reader.back(stop)
        answer.arguments(call, typed(text.strip(), _ANY))
    return stop is not None


# [name(key="text", other=1), name()]

_PYTHON = re.compile(r"""['"\\()\[\]{},]""")


def python_list(answer: Answer) -> Steps[None]:
    """Read a list of Python calls. What is none is content."""
    reader = answer.reader
    reader.keep()
    if (yield from reader.peek()) != "[":
        answer.content(reader.kept())
        return
    reader.position += 1
    while True:
        name, stop = yield from reader.collect(("(", "]", "\n"))
        name = name.strip()
        if stop != "(" or not _NAME.fullmatch(name) or (answer.tools and name not in answer.tools):
            answer.content(reader.kept())
            return
        call = answer.call(name)
        if not (yield from _python_arguments(answer, call)):
            return
        answer.end(call)
        following = yield from reader.follows((",", "]"))
        reader.keep()
        if following:
            reader.skip(following)
        if following != ",":
            reader.release()
            return


def python_calls(answer: Answer, found: str) -> Steps[None]:
    """Read a list of Python calls after a marker."""
    yield from python_list(answer)


def _python_arguments(answer: Answer, call: Call) -> Steps[bool]:
    reader = answer.reader
    before = "{"
    while (following := (yield from reader.follows((")",)))) != ")":
        key, stop = yield from reader.collect(("=", "(", ")", "\n"))
        if following == "" or stop != "=":
            return False
        text = yield from _python_value(reader)
        try:
            value = json.dumps(ast.literal_eval((text or "").strip()), ensure_ascii=False)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return False
        answer.arguments(call, f"{before}{_quote(key.strip())}: {value}")
        before = ", "
        if (yield from reader.follows((",",))):
            reader.skip(",")
    reader.skip(")")
    answer.arguments(call, "{}" if before == "{" else "}")
    return True


def _python_value(reader: Reader) -> Steps[str | None]:
    """The text before the comma or bracket that ends a literal; None: it has no end."""
    parts: list[str] = []
    depth = 0
    quote = ""
    while True:
        text, start = reader.text, reader.position
        at = start
        done = False
        while not done and (match := _PYTHON.search(text, at)):
            at, character = match.end(), match.group()
            if character == "\\":
                if at == len(text):
                    at -= 1
                    break
                at += 1
            elif quote:
                quote = "" if character == quote else quote
            elif character in "'\"":
                quote = character
            elif character in "([{":
                depth += 1
            elif depth:
                depth -= character in ")]}"
            elif character in ",)":
                at -= 1
                done = True
        else:
            at = at if done else len(text)
        parts.append(text[start:at])
        reader.position = at
        if done:
            return literal("".join(parts))
        if reader.ended:
            reader.rest()
            return None
        yield
