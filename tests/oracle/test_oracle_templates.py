"""Mistral's named templates against mistral-common's own encoding of the same messages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from trt_tokenizers.templates.render import load
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.registry import create

mistral_common = pytest.importorskip("mistral_common")

#: Template, file of mistral-common, version.
PAIRS = [
    ("mistral-v1", "tokenizer.model.v1", "v1"),
    ("mistral-v3", "mistral_instruct_tokenizer_240323.model.v3", "v3"),
    ("mistral-v7", "mistral_instruct_tokenizer_241114.model.v7", "v7"),
    ("mistral-v3-tekken", "tekken_240718.json", "v3"),
]


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: pair[0])
def sides(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, Tokenizer, str]:
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    name, file, version = request.param
    folder = tmp_path_factory.mktemp(name)
    source = Path(mistral_common.__file__).parent / "data" / file
    shutil.copy(source, folder / ("tekken.json" if file.endswith("json") else file))
    ours = create(TokenizerSettings(str(folder), "mistral"))
    return name, MistralTokenizer.from_file(str(source)), ours, version


def talk(*contents: str, system: str | None = None) -> list[dict[str, Any]]:
    messages = [] if system is None else [{"role": "system", "content": system}]
    for at, content in enumerate(contents):
        messages.append({"role": ("user", "assistant")[at % 2], "content": content})
    return messages


CONVERSATIONS = [
    talk("Hi"),
    talk("Hi", system="Be terse."),
    talk("Hi", "Hello!", "And now?"),
    talk("Hi", "Hello!", "And now?", "Well.", "Go on", system="Be terse."),
    talk("two\nlines\n\n- and\n- more"),
    talk("<b>&amp;</b> 'q' \"d\" \\n {x}"),
    talk("안녕하세요", "😀 네", "中文？", system="한국어로"),
    talk("def f(x):\n    return x", "```python\nf(1)\n```", "thanks"),
    talk("x" * 500, "y" * 500, "z", system="s\ns"),
    talk(" spaces around ", " and around  ", "\tand a tab\n"),
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'Tells the "weather" in Łódź',
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Łódź"}'},
}
CALLED = [
    *talk("How is the weather?"),
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "sunny, 20 °C", "name": "weather", "tool_call_id": "abcdefghi"},
]  # fmt: skip


def check(sides: tuple[str, Any, Tokenizer, str], messages: Any, tools: Any = None) -> None:
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    name, maker, ours, _ = sides
    template = load(name, None)
    assert template is not None
    prompt = template.render(messages, ours.special_tokens, tools=tools)
    ids = ours.encode_prompt(prompt, add_special_tokens=False, ensure_bos=True)
    request = ChatCompletionRequest(messages=messages, tools=tools)
    expected = maker.encode_chat_completion(request).tokens
    assert ids == list(expected), (prompt, ours.decode(expected, skip_special_tokens=False))


@pytest.mark.parametrize("at", range(len(CONVERSATIONS)))
def test_conversations(sides: tuple[str, Any, Tokenizer, str], at: int) -> None:
    check(sides, CONVERSATIONS[at])


def test_tools(sides: tuple[str, Any, Tokenizer, str]) -> None:
    if sides[3] == "v1":
        pytest.skip("Mistral v1 knows no tools")
    check(sides, talk("How is the weather?", system="Be terse."), TOOLS)
    check(sides, CALLED, TOOLS)
    check(sides, [*CALLED, {"role": "assistant", "content": "Sunny."},
                  {"role": "user", "content": "And tomorrow?"}], TOOLS)  # fmt: skip
