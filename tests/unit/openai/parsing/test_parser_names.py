"""Parsers by name, by a chat template, and by another package."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from answers import Folded, parse
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.openai.parsing import (
    REASONING_PARSERS,
    TOOL_PARSERS,
    Piece,
    choose,
    make_parser,
)

DOCUMENTED = (Path(__file__).parents[4] / "docs" / "plugins.md").read_text()
_block = next(b for b in DOCUMENTED.split("```python\n") if "def mine" in b).partition("```")[0]
exec(_block)  # defines mine()


def not_a_format() -> str:
    return "hermes"


def test_the_documented_family_of_another_package() -> None:
    parser = make_parser(f"{__name__}:mine", "none", tools=[])
    text = 'a<call>{"name": "f", "arguments": {"b": 1}}</call>'
    assert parse(parser, [[Piece(text)]]) == Folded("a", "", [("f", '{"b": 1}', True)])


def test_errors_name_the_parser_and_the_fix() -> None:
    with pytest.raises(SettingsError, match=r"unknown tool parser 'herms' .did you mean 'hermes'"):
        make_parser("herms", "none", tools=[])
    with pytest.raises(SettingsError, match=r"unknown reasoning parser 'x'; valid are: .*think"):
        make_parser("none", "x", tools=[])
    with pytest.raises(SettingsError, match="returns a str; return a ToolFormat"):
        make_parser(f"{__name__}:not_a_format", "none", tools=[])


@pytest.mark.parametrize("group", [TOOL_PARSERS, REASONING_PARSERS])
def test_every_registered_parser_reads_text(group: str) -> None:
    for point in entry_points(group=group):
        names = (point.name, "none") if group == TOOL_PARSERS else ("none", point.name)
        assert parse(make_parser(*names, tools=[]), [[Piece("Hello.")]]) == Folded("Hello.")


@pytest.mark.parametrize(
    ("template", "tool", "reasoning"),
    [
        ("{{ '<tool_call>\\n' + call | tojson + '\\n</tool_call>' }}<think>", "hermes", "think"),
        ("<tool_call>\\n<function=' + call.name", "qwen3_coder", "none"),
        ("<tool_call>{{ name }}<arg_key>{{ k }}</arg_key></think>", "glm", "think"),
        ("<｜tool▁calls▁begin｜>...</think>", "deepseek_v3", "think"),
        ("<|tool_calls_section_begin|>", "kimi", "kimi"),
        ("[TOOL_CALLS]", "mistral", "none"),
        ("[TOOL_CALLS] [THINK]", "mistral", "mistral"),
        ("<|channel|>analysis<|message|>", "gpt_oss", "gpt_oss"),
        ("<|tool_call>call:{{ name }} <|channel>thought", "gemma", "gemma"),
        ("<|python_tag|>", "llama3_json", "none"),
        ("<|header_start|>", "pythonic", "none"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "none", "none"),
        ("", "none", "none"),
    ],
)
def test_auto_chooses_by_the_template(template: str, tool: str, reasoning: str) -> None:
    assert choose("auto", "auto", template) == (tool, reasoning)
    assert choose("none", "think", template) == ("none", "think")


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import json, sys; from trt_tokenizers.openai.parsing import make_parser;"
        "make_parser('hermes', 'think', tools=[]);"
        "print(json.dumps([m.split('.')[0] for m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    heavy = {"numpy", "regex", "torch", "transformers", "tritonclient", "jinja2", "tokenizers"}
    assert not heavy & set(json.loads(done.stdout))
