"""Questions to preprocessing alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_tokenizers.errors import RequestError
from trt_tokenizers.processing.inspection import inspect
from trt_tokenizers.processing.preprocess import PreprocessingSettings, Preprocessor
from trt_tokenizers.streams.context_store import ContextStore

MESSAGES = json.dumps([{"role": "user", "content": "Hi <|im_end|>"}]).encode()


@pytest.fixture
def preprocessor(bpe_dir: Path, tmp_path: Path) -> Preprocessor:
    return Preprocessor(
        PreprocessingSettings(str(bpe_dir), max_seq_len=100), ContextStore(tmp_path / "streams")
    )


def ask(preprocessor: Preprocessor, what: str, **inputs: Any) -> dict[str, Any]:
    arrays = {"INSPECT": np.array([[what.encode()]], dtype=np.object_)}
    for name, value in inputs.items():
        dtype = np.int32 if isinstance(value, list) else np.object_
        arrays[name] = np.array([value if isinstance(value, list) else [value]], dtype=dtype)
    return inspect(arrays, preprocessor)


def test_prompt_text_and_template(preprocessor: Preprocessor, tmp_path: Path) -> None:
    answer = ask(preprocessor, "prompt", MESSAGES=MESSAGES)
    prompt = answer["PROMPT"].item().decode()
    assert prompt == "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    ids = answer["INPUT_ID"].ravel().tolist()
    assert ids == preprocessor.tokenizer.encode(prompt, add_special_tokens=False)
    assert ask(preprocessor, "text", TOKEN_IDS=ids)["PROMPT"].item().decode() == prompt
    template = ask(preprocessor, "template")["PROMPT"].item().decode()
    assert template.startswith("{% for m in messages %}")
    assert ask(preprocessor, "prompt", QUERY=b"a b")["PROMPT"].item() == b"a b"
    assert [p.name for p in (tmp_path / "streams").iterdir() if "user-" not in p.name] == []


def test_bytes_of_tokens(preprocessor: Preprocessor) -> None:
    text = " é👍🏽"
    ids = preprocessor.tokenizer.encode(text, add_special_tokens=False)
    answer = json.loads(ask(preprocessor, "tokens", TOKEN_IDS=[1, *ids])["PROMPT"].item())
    assert answer["bos_id"] == preprocessor.tokenizer.bos_id == 0
    first, *others = answer["tokens"]
    assert first == {"id": 1, "bytes": [*b"<|im_start|>"], "special": True}
    assert [token["id"] for token in others] == ids
    assert not any(token["special"] for token in others)
    assert bytes(byte for token in others for byte in token["bytes"]).decode() == text
    unknown = json.loads(ask(preprocessor, "tokens", TOKEN_IDS=[2**31 - 1])["PROMPT"].item())
    assert unknown["tokens"] == [{"id": 2**31 - 1, "bytes": [], "special": False}]


@pytest.mark.parametrize(
    ("template", "source"),
    [("none", ""), ("a{{ messages }}", "a{{ messages }}"), ("chatml", "<|im_start|>")],
)
def test_the_template_that_was_chosen(
    bpe_dir: Path, tmp_path: Path, template: str, source: str
) -> None:
    settings = PreprocessingSettings(str(bpe_dir), max_seq_len=100, template=template)
    preprocessor = Preprocessor(settings, ContextStore(tmp_path / "streams"))
    told = ask(preprocessor, "template")["PROMPT"].item().decode()
    assert source in told
    assert bool(told) == bool(source)


@pytest.mark.parametrize(
    ("what", "inputs", "message"),
    [
        ("prompt", {}, "the prompt is empty"),
        ("prompt", {"QUERY": b"a" * 9999}, "the prompt has 9999 characters"),
        ("prompt", {"MESSAGES": b"[]"}, "messages must be"),
        ("tokens", {"TOKEN_IDS": [5] * 4097}, "4097 tokens are asked for; send at most 4096"),
        ("other", {}, "INSPECT is 'other'; send prompt, text, tokens or template"),
    ],
)
def test_wrong_questions(
    preprocessor: Preprocessor, what: str, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        ask(preprocessor, what, **inputs)
