"""Mistral's named templates against mistral-common's own encoding of the same messages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from conversations import CONVERSATIONS, TOOL, called, talk
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
    if not all(message["content"] for message in CONVERSATIONS[at]):
        pytest.skip("mistral-common refuses empty answers")
    check(sides, CONVERSATIONS[at])


def test_tools(sides: tuple[str, Any, Tokenizer, str]) -> None:
    if sides[3] == "v1":
        pytest.skip("Mistral v1 knows no tools")
    check(sides, talk("How is the weather?", system="Be terse."), [TOOL])
    messages = called('{"city": "Łódź"}')
    check(sides, messages, [TOOL])
    check(sides, [*messages, {"role": "assistant", "content": "Sunny."},
                  {"role": "user", "content": "And tomorrow?"}], [TOOL])  # fmt: skip
