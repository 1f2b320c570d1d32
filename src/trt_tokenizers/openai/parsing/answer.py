"""The state machine of an answer: content, reasoning and tool calls, by descriptions of each.

Of the libraries, transformers' `ResponseParser` takes 0.9 s and 53 MB to import, gives a call only
when it is closed, and closes it at a marker inside a JSON string; openai-harmony parses token ids
with a vocabulary that it downloads, and mistral-common reads the token ids of whole answers: so
this is our own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from trt_tokenizers.openai.parsing.base import (
    Content,
    Event,
    Piece,
    Reasoning,
    ToolArguments,
    ToolCall,
    ToolCallEnd,
)
from trt_tokenizers.openai.parsing.reader import Reader, Steps, visible

#: What begins or ends a turn in prompts. A marker of reasoning before one is another turn's.
_TURN = re.compile(r"<[|｜]|[|｜]>|\[/?[A-Z_]+\]|</?s>|<(?:start|end)_of_turn>")


@dataclass(frozen=True)
class ReasoningFormat:
    """How a family of models writes reasoning.

    Attributes:
        pairs: (open, close) markers.
        tokens: parts of markers that the family's tokenizers have as added tokens.
        dropped: markers around the answer that are neither content nor reasoning.
        ends: those of *dropped* that end reasoning which has no close marker.
        after: between reasoning and what follows it.
        final: before content.
        answer: reads the whole answer in place of `Answer.read`; a generator.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    tokens: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    after: str = ""
    final: str = ""
    answer: Callable[[Answer], Steps[None]] | None = None


@dataclass(frozen=True)
class CallForm:
    """How a call is written in which only the arguments vary, which are JSON.

    Attributes:
        begin: before the arguments; ``{name}`` stands for the tool's name.
        end: after them.
        sign: text in the chat templates of models that write so; empty: all others.
    """

    begin: str
    end: str = ""
    sign: str = ""


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes tool calls.

    Attributes:
        opens: markers that begin a call, or several.
        read: reads calls after a marker of *opens*; a generator (see `reader`).
        dropped: markers that are no content: ends of sections, an end without a beginning.
        tokens: parts of markers that the family's tokenizers have as added tokens.
        trims: white space between content and a call is part of the markup.
        begins: what follows a marker of *opens*, if such a marker inside reasoning ends it.
        start: reads calls that have no marker, where content begins; a generator.
        calls: for calls that a client demands, the first whose sign is in the template; empty:
            arguments are not written as JSON.
        answer: reads the whole answer in place of `Answer.read`; a generator.
    """

    opens: tuple[str, ...] = ()
    read: Callable[[Answer, str], Steps[None]] | None = None
    dropped: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    trims: bool = False
    begins: tuple[str, ...] = ()
    start: Callable[[Answer], Steps[None]] | None = None
    calls: tuple[CallForm, ...] = ()
    answer: Callable[[Answer], Steps[None]] | None = None


@dataclass
class Call:
    """A call that has begun."""

    index: int
    name: str
    arguments: list[str] = field(default_factory=list)


class Answer:
    """Parser of one answer: `base.AnswerParser`, and what the functions of a format call.

    Attributes:
        reader: of the answer's text.
        calls: number of calls that have begun.
        tools: name -> parameters' schema of the request's tools.
    """

    def __init__(
        self,
        tool: ToolFormat,
        reasoning: ReasoningFormat,
        tools: Sequence[Mapping[str, Any]],
        prompt_end: str,
    ) -> None:
        self.reader = Reader([frozenset(tool.tokens), frozenset(reasoning.tokens)])
        self.tools = _parameters(tools)
        self.prompt_end = prompt_end
        self.reasons = bool(reasoning.pairs)
        self._format = tool
        self._reasoning = reasoning
        self._events: list[Event] = []
        self._kind: type[Content] | type[Reasoning] = Content
        self.calls = 0
        self._space = ""  # white space at the end of content or reasoning, not given yet
        self._fresh = False  # leading white space of content or reasoning is dropped
        self._said = False  # there is content
        self._steps = (tool.answer or reasoning.answer or Answer.read)(self)
        self._running = True
        self._run()

    # AnswerParser

    def feed(self, pieces: Sequence[Piece]) -> list[Event]:
        for piece in pieces:
            self.reader.push(piece)
            self._run()
        events, self._events = self._events, []
        return _joined(events) if len(events) > 1 else events

    def finish(self, *, cut: bool) -> list[Event]:
        self.reader.end(cut)
        self._run()
        if self._space and not (self.calls and self._format.trims):
            self._events.append(self._kind(self._space))
        return _joined(self._events)

    def _run(self) -> None:
        if self._running:
            try:
                next(self._steps)
            except StopIteration:
                self._running = False

    # The answer

    def read(self) -> Steps[None]:
        form, reader = self._format, self.reader
        closes = dict(self._reasoning.pairs)
        dropped = (*closes.values(), *form.dropped, *self._reasoning.dropped)
        stops = tuple(dict.fromkeys((*closes, *form.opens, *dropped)))
        for start, close in self._reasoning.pairs:
            if inside(self.prompt_end, start, close):
                yield from self._think(close)
        if form.start:
            yield from form.start(self)
        while stops:
            found = yield from reader.until(stops, self.content)
            if found is None:
                return
            if found in closes:
                yield from self._think(closes[found])
                if form.start:
                    yield from form.start(self)
            elif found in form.opens and form.read:
                yield from form.read(self, found)
        while not reader.ended:
            self.content(reader.rest())
            yield
        self.content(reader.rest())

    def _think(self, close: str) -> Steps[None]:
        form, reader = self._format, self.reader
        self.begin_reasoning()
        ends = (close, *self._reasoning.ends)
        stops = (*ends, *(form.opens if form.begins else ()))
        while True:
            found = yield from reader.until(stops, self.reasoning)
            if found is None:
                return
            if found in ends:
                self.end_reasoning()
                return
            assert form.read
            if (yield from reader.follows(form.begins)):
                self.end_reasoning()
                yield from form.read(self, found)
                return
            self.reasoning(found)

    # What formats say

    def content(self, text: str) -> None:
        self._kind = Content
        self._say(text)

    def reasoning(self, text: str) -> None:
        self._kind = Reasoning
        self._say(text)

    def _say(self, text: str) -> None:
        text = visible(text)
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        text = self._space + text
        said = text.rstrip()
        self._space = text[len(said) :]
        if said:
            self._said = self._said or self._kind is Content
            self._events.append(self._kind(said))

    def begin_reasoning(self) -> None:
        if not self._said:
            self._space = ""
        if self._space:
            self._events.append(Content(self._space))
            self._space = ""
        self._fresh = True

    def end_reasoning(self) -> None:
        self._space, self._fresh = "", True
        self._kind = Content

    def call(self, name: str) -> Call:
        """Begin a call."""
        if not self._format.trims:
            if self._space:
                self._events.append(Content(self._space))
                self._space = ""
        elif not self._said:
            self._space, self._fresh = "", True
        self.reader.release()
        call = Call(self.calls, name)
        self.calls += 1
        self._events.append(ToolCall(call.index, name))
        return call

    def arguments(self, call: Call, text: str) -> None:
        call.arguments.append(text)
        self._events.append(ToolArguments(call.index, text))

    def end(self, call: Call) -> None:
        """The call is whole, if its arguments are a JSON object."""
        try:
            value = json.loads("".join(call.arguments), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return
        if isinstance(value, dict):
            self._events.append(ToolCallEnd(call.index))

    def not_a_call(self) -> None:
        """What was read since `Reader.keep` is content, unless the answer was cut there."""
        reader = self.reader
        text = reader.kept()
        if not (reader.ended and reader.cut and reader.position == len(reader.text)):
            self.content(text)


def _joined(events: list[Event]) -> list[Event]:
    """*events* with successive texts of the same kind as one."""
    joined: list[Event] = []
    for _, same in groupby(events, lambda e: (type(e), getattr(e, "index", None))):
        first, *more = same
        if more and not isinstance(first, ToolCall | ToolCallEnd):
            text = "".join(getattr(event, "text", "") for event in more)
            first = replace(first, text=first.text + text)
        joined.append(first)
    return joined


def inside(prompt_end: str, start: str, close: str) -> bool:
    """Whether an answer after *prompt_end* begins inside reasoning."""
    opened = prompt_end.rfind(start)
    return (
        opened >= 0
        and opened > prompt_end.rfind(close)
        and not _TURN.search(prompt_end, opened + len(start))
    )


def ended(prompt_end: str, close: str) -> bool:
    """Whether *prompt_end* has ended the reasoning of the answer after it."""
    at = prompt_end.rfind(close)
    return at >= 0 and not _TURN.search(prompt_end, at + len(close))


def _parameters(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    functions = [tool.get("function") for tool in tools]
    return {
        f["name"]: f.get("parameters") or {}
        for f in functions
        if isinstance(f, Mapping) and isinstance(f.get("name"), str)
    }


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
