"""Tokens that the small JSON files add, compared with transformers."""

from __future__ import annotations

import base64
import json
import re
import shutil
import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from applicable import needs_oracle
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.registry import create
from trt_tokenizers.tokenizers.vocabulary import any_of

PLAIN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
TOOL = {**PLAIN, "content": "<tool>", "special": False}
NEW = {**PLAIN, "content": "<|new|>", "special": True}
ALONE = {**PLAIN, "content": "zqfoo", "special": True, "single_word": True}
BLANKS = {**NEW, "lstrip": True, "rstrip": True}
TYPED = {**BLANKS, "__type": "AddedToken"}
UNTYPED = {key: value for key, value in BLANKS.items() if key != "special"}
#: Tokens as objects, under a role, in a list and under a name of their own.
OBJECTS = [
    {"config": {"eos_token": TYPED}},
    {"config": {"pad_token": TYPED}},
    {"config": {"additional_special_tokens": [TYPED, "<tool>"]}},
    {"config": {"extra_special_tokens": [TYPED, "<tool>"]}},
    {"config": {"extra_special_tokens": {"think_token": TYPED, "tool": "<tool>"}}},
    {"config": {"think_token": TYPED, "tool_token": "<tool>"}},
    {"special_tokens_map": {"pad_token": UNTYPED}},
    {"special_tokens_map": {"extra_special_tokens": [UNTYPED, "<tool>"]}},
    {"config": {"pad_token": "<|new|>"}, "special_tokens_map": {"pad_token": UNTYPED}},
    {"config": {"pad_token": TYPED}, "special_tokens_map": {"pad_token": "<|new|>"}},
]
#: Not read by transformers 4.57.
NEWER = [OBJECTS[3], OBJECTS[5], OBJECTS[7]]
TEXTS = [
    "hello", "<|im_end|>a <tool> b", "x <tool> <|new|>  y", "<|new|>z", "w<tool>\n x", "<tool>",
    "<|new|>  z\n", "a \n<|new|>\n\nb", "a <tool>b <tool>", "</s>a<s> b<unk>", "the<|new|><|new|>",
    "azqfoob", "zqfoo", "a zqfoo b", "zqfoos", "(zqfoo)", "_zqfoo zqfoo ", "zqfoozqfoo",
    "a </s> b", "a <s>  b",  "a <|im_start|> b", "</s>zqfoo", "é zqfoo\u0301 é", "½zqfoo½",
]  # fmt: skip


def altered(folder: Path, work: Path, **files: dict) -> Path:
    """A copy of *folder*; ``config`` updates its tokenizer_config.json."""
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
        {"config": {"added_tokens_decoder": {"600": ALONE}}},
        {"added_tokens": {"<|new|>": 601, "<tool>": 600}},
        {"config": {"additional_special_tokens": ["<tool>"]}},
        {"config": {"eos_token": "<|new|>"}},
        {"config": {"eos_token": "e"}},
        {"special_tokens_map": {"bos_token": "<|im_start|>", "pad_token": "<|endoftext|>"}},
        {"config": {"added_tokens_decoder": {"600": NEW}, "pad_token": TYPED}},
        {"config": {"added_tokens_decoder": {"600": BLANKS}, "pad_token": "<|new|>"}},
        {"config": {"added_tokens_decoder": {"1": {**BLANKS, "content": "<|im_start|>"}}}},
        *OBJECTS,
    ],
)
def test_tokens_beside_tokenizer_json(bpe_dir: Path, tmp_path: Path, files: dict) -> None:
    if files in NEWER:
        needs_oracle()
    check(altered(bpe_dir, tmp_path, **files))


def test_objects_in_the_older_list_of_special_tokens_map(bpe_dir: Path, tmp_path: Path) -> None:
    """transformers 5 fails on it, and reads the list under its newer name."""
    needs_oracle()
    tokens = [UNTYPED, "<tool>"]
    newer = altered(bpe_dir, tmp_path / "a", special_tokens_map={"extra_special_tokens": tokens})
    check(newer)
    older = altered(
        bpe_dir, tmp_path / "b", special_tokens_map={"additional_special_tokens": tokens}
    )
    expected, ours = (create(TokenizerSettings(str(folder))) for folder in (newer, older))
    for text in TEXTS:
        assert ours.encode(text) == expected.encode(text), text
        assert ours.decode(ours.encode(text)) == expected.decode(expected.encode(text)), text


def test_an_added_token_that_is_not_special_is_skipped_as_eos(
    bpe_dir: Path, tmp_path: Path
) -> None:
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
        {"config": {"added_tokens_decoder": {"400": ALONE}}},
        {"config": {"added_tokens_decoder": {"400": {**ALONE, "special": False, "lstrip": True}}}},
        {"added_tokens": {"<tool>": 400}},
        {},
        {"config": {"added_tokens_decoder": {"400": NEW}, "pad_token": TYPED}},
    ],
)
def test_tokens_beside_a_sentencepiece_file(
    sentencepiece_dir: Path, tmp_path: Path, kind: str, files: dict
) -> None:
    check(altered(sentencepiece_dir, tmp_path, **files), kind)


@pytest.mark.parametrize(
    "files",
    [
        {"config": {"eos_token": {**TYPED, "content": "</s>"}}},
        {"special_tokens_map": {"eos_token": {**UNTYPED, "content": "</s>"}}},
        {"config": {"extra_special_tokens": [{**TYPED, "content": "</s>"}]}},
    ],
)
def test_flags_of_a_piece_of_the_model_file(
    sentencepiece_dir: Path, tmp_path: Path, files: dict
) -> None:
    """transformers 5 ignores them there, and applies them in added_tokens_decoder."""
    from transformers import AutoTokenizer

    decoder = {"added_tokens_decoder": {"2": {**BLANKS, "content": "</s>"}}}
    oracle = AutoTokenizer.from_pretrained(
        altered(sentencepiece_dir, tmp_path / "a", config=decoder)
    )
    ours = create(TokenizerSettings(str(altered(sentencepiece_dir, tmp_path / "b", **files))))
    for text in TEXTS:
        assert ours.encode(text) == oracle.encode(text), text


@pytest.mark.parametrize("kind", ["auto", "transformers"])
@pytest.mark.parametrize("text", ["đem", "Bác", "grün", "Ġa", "é", "Ċ"])
def test_an_added_token_of_letters_that_represent_bytes_is_its_own_text(
    bpe_dir: Path, tmp_path: Path, text: str, kind: str
) -> None:
    """Each letter is one of byte-level BPE's; transformers and tokenizers decode it to bytes."""
    backend = tokenizers.Tokenizer.from_file(str(bpe_dir / "tokenizer.json"))
    backend.add_tokens([text])
    (new,) = backend.encode(text).ids
    assert backend.id_to_token(new) == text
    if text not in tokenizers.pre_tokenizers.ByteLevel.alphabet():
        assert backend.decode([new]) != text, "the library is right now: correct the docs"
    shutil.copytree(bpe_dir, tmp_path, dirs_exist_ok=True)
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = create(TokenizerSettings(str(tmp_path), kind))
    sentence = f"a {text} b{text}"
    ids = ours.encode(sentence)
    assert ids.count(new) == 2
    assert ours.decode(ids) == sentence
    stream = ours.stream()
    assert "".join(stream.feed([i]) for i in ids) + stream.finish() == sentence
    assert ours.token_bytes(new) == text.encode()


PARTS = st.lists(
    st.one_of(
        st.sampled_from(["zqfoo", "zqfo", "<tool>", "<|new|>", " ", "\n", "a", "_"]),
        st.characters(exclude_categories=["Cs", "Cn"]),
    )
)


@given(parts=PARTS)
def test_added_tokens_of_a_rank_file_are_found_as_by_the_tokenizers_library(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    """With marks and letters of any script around single words, and whitespace around others."""
    library = tokenizers.Tokenizer(models.BPE())
    added = {"258": ALONE, "259": {**TOOL, "single_word": True}, "260": BLANKS}
    library.add_tokens([tokenizers.AddedToken(**token) for token in added.values()])
    folder = tmp_path_factory.getbasetemp() / "single"
    folder.mkdir(exist_ok=True)
    ranks = [f"{base64.b64encode(bytes([b])).decode()} {b}" for b in range(256)]
    (folder / "mini.tiktoken").write_text("\n".join(ranks))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": added, "eos_token": "<|new|>"})
    )
    ours = create(TokenizerSettings(str(folder), tiktoken_pattern=r"\s+|\S+"))
    text = "".join(parts)
    found = [i for i in ours.encode(text) if i >= 258]
    assert found == [i + 258 for i in library.encode(text).ids]
    if not any(token in text for token in ("<tool>", "<|new|>")):
        assert ours.decode(ours.encode(text)).replace("zqfoo", "") == text.replace("zqfoo", "")


@given(words=st.lists(st.text("ab.\\|", min_size=1), max_size=8), text=st.text("ab.\\|"))
def test_the_longest_word_is_found(words: list[str], text: str) -> None:
    one_by_one = "|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)"
    assert re.findall(any_of(words), text) == re.findall(one_by_one, text)


def test_a_thousand_special_tokens_are_found_in_linear_time() -> None:
    """Trying each of them at every '<' took ten seconds for a million."""
    expression = re.compile(any_of(f"<SPECIAL_{n}>" for n in range(1000)))
    start = time.perf_counter()
    assert not expression.findall("<" * 1_000_000)
    assert time.perf_counter() - start < 3
