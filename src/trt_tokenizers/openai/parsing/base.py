"""What parsers of answers take and return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias


class Piece(NamedTuple):
    """Text of one or more successive tokens of an answer.

    Attributes:
        text: may be empty.
        special: the piece is exactly one added token of the tokenizer, not ordinary text.
        hidden: an added token that ``skip_special_tokens`` leaves out, such as EOS.
    """

    text: str
    special: bool = False
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the reasoning before the answer or between its parts."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call begins. Calls are numbered from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ToolArguments:
    """Part of the arguments: the texts of one index concatenate to JSON text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """The call is whole. A call without this event was cut."""

    index: int


Event: TypeAlias = Content | Reasoning | ToolCall | ToolArguments | ToolCallEnd


class AnswerParser(Protocol):
    """Parser of one answer."""

    def feed(self, pieces: Sequence[Piece]) -> list[Event]:
        """The events that *pieces*, the next text of the answer, complete."""

    def finish(self, *, cut: bool) -> list[Event]:
        """The events of the text that `feed` still held.

        Args:
            cut: the answer was ended by its token limit, not by the model.
        """
