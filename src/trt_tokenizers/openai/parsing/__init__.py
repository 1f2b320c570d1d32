"""Answers -> content, reasoning and tool calls, piece by piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trt_tokenizers.openai.parsing.base import (
    AnswerParser,
    Content,
    Event,
    Piece,
    Reasoning,
    ToolArguments,
    ToolCall,
    ToolCallEnd,
)

__all__ = [
    "AnswerParser",
    "Content",
    "Event",
    "Piece",
    "Reasoning",
    "ToolArguments",
    "ToolCall",
    "ToolCallEnd",
    "make_parser",
]


class _Text:
    def feed(self, pieces: Sequence[Piece]) -> list[Event]:
        text = "".join(piece.text for piece in pieces if not piece.hidden)
        return [Content(text)] if text else []

    def finish(self, *, cut: bool) -> list[Event]:
        return []


def make_parser(
    tool: str,
    reasoning: str,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    prompt_end: str = "",
    chat_template: str = "",
) -> AnswerParser:
    """A parser for one answer.

    Args:
        tool: name of a tool parser, ``auto`` or ``none``.
        reasoning: name of a reasoning parser, ``auto`` or ``none``.
        tools: the request's ``tools``; None: calls are not looked for.
        prompt_end: end of the rendered prompt, which says whether the answer begins in reasoning.
        chat_template: of the model, from which ``auto`` chooses.
    """
    return _Text()
