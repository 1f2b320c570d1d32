"""Mistral's named templates compared with mistral-common's encoding of the same messages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from conversations import CONVERSATIONS, MISTRAL, TOOL, Messages, called, talk
from trt_tokenizers.templates.render import load
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.registry import create

mistral_common = pytest.importorskip("mistral_common")

#: mistral-common refuses an empty answer; see test_an_empty_answer_is_eos_alone.
ANSWERED = [its for its in CONVERSATIONS if all(message["content"] for message in its)]
SPACES = [talk("Hi", "  ", "And now?"), talk("Hi", "\n", "And now?", " x  ", "Go on", system=" ")]


@pytest.fixture(scope="module", params=MISTRAL)
def sides(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, Tokenizer, str]:
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    file, version = MISTRAL[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / ("tekken.json" if file.endswith("json") else file)
    shutil.copy(Path(mistral_common.__file__).parent / "data" / file, path)
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        content["config"]["version"] = version
        path.write_text(json.dumps(content))
    maker = MistralTokenizer.from_file(str(path))
    assert type(maker.instruct_tokenizer).__name__ == f"InstructTokenizerV{version[1:]}"
    return request.param, maker, create(TokenizerSettings(str(folder), "mistral")), version


def ids_of(sides: tuple[str, Any, Tokenizer, str], messages: Messages, tools: Any = None) -> list:
    name, _, ours, _ = sides
    template = load(name, None)
    assert template is not None
    prompt = template.render(messages, ours.special_tokens, tools=tools)
    return ours.encode_prompts([prompt], add_special_tokens=False, ensure_bos=True)[0]


def makers(sides: tuple[str, Any, Tokenizer, str], messages: Messages, tools: Any = None) -> list:
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    request = ChatCompletionRequest(messages=messages, tools=tools)
    return list(sides[1].encode_chat_completion(request).tokens)


def check(sides: tuple[str, Any, Tokenizer, str], messages: Messages, tools: Any = None) -> None:
    ids, expected = ids_of(sides, messages, tools), makers(sides, messages, tools)
    decoded = [sides[2].decode(its, skip_special_tokens=False) for its in (ids, expected)]
    assert ids == expected, decoded


@pytest.mark.parametrize("messages", [*ANSWERED, *SPACES])
def test_conversations(sides: tuple[str, Any, Tokenizer, str], messages: Messages) -> None:
    check(sides, messages)


def test_an_empty_answer_is_eos_alone(sides: tuple[str, Any, Tokenizer, str]) -> None:
    """mistral-common refuses it. In its format an answer is the text's ids, here none, and EOS.

    From version 3 on it encodes an answer of spaces like this: it drops spaces at the end.
    """
    _, _, ours, version = sides
    with pytest.raises(Exception, match=r"[Aa]ssistant"):
        makers(sides, talk("Hi", "", "Go on"))
    expected = [*makers(sides, talk("Hi")), ours.eos_ids[0], *makers(sides, talk("Go on"))[1:]]
    assert ids_of(sides, talk("Hi", "", "Go on")) == expected
    if version != "v1":
        assert makers(sides, talk("Hi", "  ", "Go on")) == expected


def test_tools(sides: tuple[str, Any, Tokenizer, str]) -> None:
    if sides[3] == "v1":
        pytest.skip("Mistral v1 has no tools")
    check(sides, talk("How is the weather?", system="Be terse."), [TOOL])
    messages = called('{"city": "Łódź"}')
    check(sides, messages, [TOOL])
    check(sides, [*messages, {"role": "assistant", "content": "Sunny."},
                  {"role": "user", "content": "And tomorrow?"}], [TOOL])  # fmt: skip
