"""Answers for the parsers: cut in pieces, parsed, and folded as a client does it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from trt_tokenizers.openai.parsing import (
    AnswerParser,
    Content,
    Event,
    Piece,
    Reasoning,
    ToolArguments,
    ToolCall,
    ToolCallEnd,
)


@dataclass
class Folded:
    """What a client has at the end. Calls are (name, arguments, whether the call is whole)."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str, bool]] = field(default_factory=list)

    @property
    def whole(self) -> list[tuple[str, str]]:
        return [(name, arguments) for name, arguments, whole in self.calls if whole]


def fold(events: Iterable[Event]) -> Folded:
    folded = Folded()
    for event in events:
        if isinstance(event, Content):
            assert event.text
            folded.content += event.text
        elif isinstance(event, Reasoning):
            assert event.text
            folded.reasoning += event.text
        elif isinstance(event, ToolCall):
            assert event.index == len(folded.calls)
            folded.calls.append((event.name, "", False))
        else:
            name, arguments, whole = folded.calls[event.index]
            assert not whole, "nothing follows the end of a call"
            if isinstance(event, ToolArguments):
                folded.calls[event.index] = (name, arguments + event.text, False)
            else:
                assert isinstance(event, ToolCallEnd)
                folded.calls[event.index] = (name, arguments, True)
    return folded


def parse(parser: AnswerParser, groups: Iterable[list[Piece]], *, cut: bool = False) -> Folded:
    events = [event for group in groups for event in parser.feed(group)]
    return fold(events + parser.finish(cut=cut))


def with_special(text: str, tokens: Iterable[str]) -> list[Piece]:
    """*text* with each of *tokens* in it as a special piece."""
    longest_first = sorted(tokens, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
    return [Piece(part, special=n % 2 == 1) for n, part in enumerate(parts) if part]


def cut(pieces: list[Piece], sizes: Iterable[int]) -> Iterable[list[Piece]]:
    """*pieces* in groups of so many characters; a special piece is like one."""
    units = [u for p in pieces for u in ([p] if p.special or p.hidden else map(Piece, p.text))]
    at = 0
    for size in sizes:
        if at >= len(units):
            return
        group: list[Piece] = []
        for unit in units[at : at + size]:
            plain = not (unit.special or unit.hidden)
            if plain and group and not (group[-1].special or group[-1].hidden):
                group[-1] = Piece(group[-1].text + unit.text)
            else:
                group.append(unit)
        yield group
        at += size
    if at < len(units):
        yield units[at:]


def openai_type(name: str) -> Any:
    """A response type of OpenAI's library, whose import takes 0.7 s of CPU time."""
    module = "openai.types.chat" if name.startswith("Chat") else "openai.types"
    return getattr(import_module(module), name)
