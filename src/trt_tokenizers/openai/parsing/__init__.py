"""Answers -> content, reasoning and tool calls, piece by piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from trt_tokenizers.errors import SettingsError
from trt_tokenizers.openai.parsing.answer import Answer, ReasoningFormat, ToolFormat
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
from trt_tokenizers.plugins import find_plugin

__all__ = [
    "REASONING_PARSERS",
    "TOOL_PARSERS",
    "AnswerParser",
    "Content",
    "Event",
    "Piece",
    "Reasoning",
    "ReasoningFormat",
    "ToolArguments",
    "ToolCall",
    "ToolCallEnd",
    "ToolFormat",
    "choose",
    "make_parser",
    "reasoning_format",
    "tool_format",
]

TOOL_PARSERS = "trt_tokenizers.tool_parsers"
REASONING_PARSERS = "trt_tokenizers.reasoning_parsers"

#: Text in a chat template -> the parser. The first that is there decides.
_TOOL_SIGNS = (
    ("<|channel|>analysis", "gpt_oss"),
    ("｜DSML｜", "deepseek_v32"),
    ("<｜tool▁calls▁begin｜>", "deepseek_v3"),
    ("<|tool_calls_section_begin|>", "kimi"),
    ("<|open|>", "kimi"),
    ("<minimax:tool_call>", "minimax"),
    ("<arg_key>", "glm"),
    ("<function=", "qwen3_coder"),
    ("<|tool_call>", "gemma"),
    ("<start_function_call>", "gemma"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|tool_call|>", "granite"),
    ("<tool_call>", "hermes"),
    ("<|python_start|>", "pythonic"),
    ("<|header_start|>", "pythonic"),
    ("<|python_tag|>", "llama3_json"),
    ('{"name": function name, "parameters":', "llama3_json"),
)
_REASONING_SIGNS = (
    ("<|channel|>analysis", "gpt_oss"),
    ("<|tool_calls_section_begin|>", "kimi"),
    ("<|open|>", "kimi"),
    ("[THINK]", "mistral"),
    ("<|channel>", "gemma"),
    ("Here is my thought process:", "granite"),
    ("<response>", "granite"),
    ("</think>", "think"),
    ("<think>", "think"),
)


def choose(tool: str, reasoning: str, chat_template: str) -> tuple[str, str]:
    """The names of a tool parser and a reasoning parser, with ``auto`` replaced.

    Args:
        tool, reasoning: names, or ``auto``.
        chat_template: of the model.
    """
    if tool == "auto":
        tool = next((name for sign, name in _TOOL_SIGNS if sign in chat_template), "none")
    if reasoning == "auto":
        reasoning = next((name for sign, name in _REASONING_SIGNS if sign in chat_template), "none")
    return tool, reasoning


def tool_format(name: str) -> ToolFormat:
    """The format of calls of this name.

    Raises:
        SettingsError: the name is unknown, or its package cannot be imported.
    """
    return cast("ToolFormat", _format(TOOL_PARSERS, name))


def reasoning_format(name: str) -> ReasoningFormat:
    """The same for reasoning."""
    return cast("ReasoningFormat", _format(REASONING_PARSERS, name))


@lru_cache
def _format(group: str, name: str) -> Any:
    what = "tool parser" if group == TOOL_PARSERS else "reasoning parser"
    kind = ToolFormat if group == TOOL_PARSERS else ReasoningFormat
    form = find_plugin(group, name, what, SettingsError)()
    if not isinstance(form, kind):
        raise SettingsError(
            f"{what} {name!r} returns a {type(form).__name__}; return a {kind.__name__}"
        )
    return form


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

    Raises:
        SettingsError: a name is unknown, or its package cannot be imported.
    """
    tool, reasoning = choose(tool, reasoning, chat_template)
    return Answer(
        tool_format(tool if tools is not None else "none"),
        reasoning_format(reasoning),
        tools or (),
        prompt_end,
    )
