"""Tokens that tokenizer_config.json and its neighbours add, against transformers; long texts."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.registry import create
from trt_tokenizers.tokenizers.segmented import any_of

PLAIN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
TOOL = {**PLAIN, "content": "<tool>", "special": False}
NEW = {**PLAIN, "content": "<|new|>", "special": True}
BLANKS = {**NEW, "lstrip": True, "rstrip": True}
TEXTS = [
    "hello", "<|im_end|>a <tool> b", "x <tool> <|new|>  y", "<|new|>z", "w<tool>\n x", "<tool>",
    "<|new|>  z\n", "a \n<|new|>\n\nb", "a <tool>b <tool>", "</s>a<s> b<unk>", "the<|new|><|new|>",
]  # fmt: skip


def altered(folder: Path, work: Path, **files: dict) -> Path:
    """A copy of *folder*; ``config`` is laid over its tokenizer_config.json."""
    shutil.copytree(folder, work, dirs_exist_ok=True)
    path = work / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | files.pop("config", {})))
    for name, content in files.items():
        (work / f"{name}.json").write_text(json.dumps(content))
    return work


def check(folder: Path, kind: str = "auto") -> None:
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(folder)
    ours = create(TokenizerSettings(str(folder), kind))
    assert (ours.bos_id, ours.eos_ids[0]) == (oracle.bos_token_id, oracle.eos_token_id)
    for text in TEXTS:
        for add in (True, False):
            ids = oracle.encode(text, add_special_tokens=add)
            assert ours.encode(text, add_special_tokens=add) == ids, (text, add)
            for skip in (True, False):
                expected = oracle.decode(
                    ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
                )
                assert ours.decode(ids, skip_special_tokens=skip) == expected, (text, skip)


@pytest.mark.parametrize(
    "files",
    [
        {"config": {"added_tokens_decoder": {"601": NEW, "600": TOOL}}},
        {"config": {"added_tokens_decoder": {"600": BLANKS, "601": TOOL}}},
        {"added_tokens": {"<|new|>": 601, "<tool>": 600}},
        {"config": {"additional_special_tokens": ["<tool>"]}},
        {"config": {"eos_token": "<|new|>"}},
        {"config": {"eos_token": "e"}},
        {"special_tokens_map": {"bos_token": "<|im_start|>", "pad_token": "<|endoftext|>"}},
    ],
)
def test_tokens_beside_tokenizer_json(bpe_dir: Path, tmp_path: Path, files: dict) -> None:
    check(altered(bpe_dir, tmp_path, **files))


def test_an_ordinary_added_token_that_is_named_eos_is_skipped(
    bpe_dir: Path, tmp_path: Path
) -> None:
    import tokenizers

    folder = altered(bpe_dir, tmp_path, config={"eos_token": "<tool>"})
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens(["<tool>"])
    backend.save(str(folder / "tokenizer.json"))
    check(folder)


@pytest.mark.parametrize("kind", ["auto", "llama", "sentencepiece"])
@pytest.mark.parametrize(
    "files",
    [
        {"config": {"added_tokens_decoder": {"401": NEW, "400": TOOL}}},
        {"config": {"added_tokens_decoder": {"400": BLANKS, "401": TOOL}}},
        {"config": {"added_tokens_decoder": {"400": {**TOOL, "lstrip": True, "rstrip": True}}}},
        {"added_tokens": {"<tool>": 400}},
        {},
    ],
)
def test_tokens_beside_a_sentencepiece_file(
    sentencepiece_dir: Path, tmp_path: Path, kind: str, files: dict
) -> None:
    check(altered(sentencepiece_dir, tmp_path, **files), kind)


@given(words=st.lists(st.text("ab.\\|", min_size=1), max_size=8), text=st.text("ab.\\|"))
def test_words_are_found_the_longest_first(words: list[str], text: str) -> None:
    one_by_one = "|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)"
    assert re.findall(any_of(words), text) == re.findall(one_by_one, text)


def test_a_thousand_special_tokens_do_not_slow_down() -> None:
    """Each of them tried at every '<' took ten seconds for a million."""
    expression = re.compile(any_of(f"<SPECIAL_{n}>" for n in range(1000)))
    start = time.perf_counter()
    assert not expression.findall("<" * 1_000_000)
    assert time.perf_counter() - start < 3
