"""Answers of families of models, as their chat templates write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """How the tests write an answer of a family: markup around content, reasoning and calls."""

    tool: str
    reasoning: str
    think: tuple[str, str]
    call: Callable[[str, dict], str]
    around: tuple[str, str] = ("", "")
    spare: str = ""  # the end of a call's markup after which it may be whole


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else _json(value)


def _gemma(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{_gemma(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_gemma, value)) + "]"
    return f'<|"|>{value}<|"|>' if isinstance(value, str) else _json(value)


def _elements(call: str, parameter: str, end: str) -> Callable[[str, dict], str]:
    def write(name: str, arguments: dict) -> str:
        parts = [
            parameter.format(key=k, value=_plain(v), string=str(isinstance(v, str)).lower())
            for k, v in arguments.items()
        ]
        return call.format(name=name) + "".join(parts) + end

    return write


THINK = ("<think>\n", "\n</think>\n\n")
FORMS = {
    "hermes": Form(
        "hermes", "think", THINK,
        lambda n, a: f'<tool_call>\n{{"name": "{n}", "arguments": {_json(a)}}}\n</tool_call>',
    ),
    "qwen3_coder": Form(
        "qwen3_coder", "think", THINK,
        _elements("<tool_call>\n<function={name}>\n",
                  "<parameter={key}>\n{value}\n</parameter>\n", "</function>\n</tool_call>"),
        spare="\n</tool_call>",
    ),
    "glm": Form(
        "glm", "think", ("<think>", "</think>"),
        _elements("<tool_call>{name}", "<arg_key>{key}</arg_key><arg_value>{value}</arg_value>",
                  "</tool_call>"),
    ),
    "deepseek_v3": Form(
        "deepseek_v3", "think", ("<think>", "</think>"),
        lambda n, a: f"<｜tool▁call▁begin｜>{n}<｜tool▁sep｜>{_json(a)}<｜tool▁call▁end｜>",
        ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ),
    "deepseek_v32": Form(
        "deepseek_v32", "think", ("<think>", "</think>"),
        _elements('<｜DSML｜invoke name="{name}">\n',
                  '<｜DSML｜parameter name="{key}" string="{string}">{value}</｜DSML｜parameter>\n',
                  "</｜DSML｜invoke>\n"),
        spare="\n",
        around=("<｜DSML｜function_calls>\n", "</｜DSML｜function_calls>"),
    ),
    "minimax": Form(
        "minimax", "think", THINK,
        _elements('<invoke name="{name}">\n', '<parameter name="{key}">{value}</parameter>\n',
                  "</invoke>\n"),
        spare="\n",
        around=("<minimax:tool_call>\n", "</minimax:tool_call>"),
    ),
    "kimi": Form(
        "kimi", "kimi", ("<think>", "</think>"),
        lambda n, a: f"<|tool_call_begin|>functions.{n}:0<|tool_call_argument_begin|>{_json(a)}"
                     "<|tool_call_end|>",
        ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ),
    "mistral": Form(
        "mistral", "mistral", ("[THINK]", "[/THINK]"),
        lambda n, a: f"[TOOL_CALLS]{n}[ARGS]{_json(a)}",
    ),
    "gemma": Form(
        "gemma", "gemma", ("<|channel>thought\n", "<channel|>"),
        lambda n, a: f"<|tool_call>call:{n}{_gemma(a)}<tool_call|>",
    ),
    "granite": Form(
        "granite", "granite", THINK,
        lambda n, a: f'<|tool_call|>[{{"name": "{n}", "arguments": {_json(a)}}}]',
        spare="}]",
    ),
}  # fmt: skip
