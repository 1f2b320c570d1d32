"""Ids of stop and bad words, anywhere in a text."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from texts import HARD_TEXTS
from trt_tokenizers.processing.stop_words import tokenizations
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.registry import create


@pytest.fixture(scope="module")
def t5_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like T5: unigram with NMT-NFKC, which turns line ends into spaces and strips the text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([HARD_TEXTS[0], "stop (a-b) x the capital", *HARD_TEXTS[10:12]] * 5),
        model_writer=model, vocab_size=200, model_type="unigram", pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("t5")
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="module", params=["t5", "auto", "llama"])
def tokenizer(
    request: pytest.FixtureRequest, t5_dir: Path, bpe_dir: Path, sentencepiece_dir: Path
) -> Tokenizer:
    folders = {"t5": t5_dir, "auto": bpe_dir, "llama": sentencepiece_dir}
    return create(TokenizerSettings(str(folders[request.param]), request.param))


@pytest.mark.parametrize("word", ["stop", "capital", "x", "(a", "-b"])
def test_a_word_is_found_at_the_start_after_a_space_and_inside(
    tokenizer: Tokenizer, word: str
) -> None:
    found = tokenizations(tokenizer, [word, ""], "stop_words")
    for before in ("", " ", "a ", "a\n", "the (", "the -", "the x"):
        ids = tuple(tokenizer.encode(before + word, add_special_tokens=False))
        head = tuple(tokenizer.encode(before.rstrip(" "), add_special_tokens=False))
        if ids[: len(head)] == head:  # else the word begins inside a token
            assert any(ids[len(ids) - len(its) :] == its for its in found), before


@given(word=st.text("abcehiloprstx ()-", min_size=1, max_size=8))
def test_a_word_inside_a_line_is_found_if_the_ids_before_it_do_not_change(
    t5_dir: Path, word: str
) -> None:
    assume(word.strip())
    tokenizer = create(TokenizerSettings(str(t5_dir), "t5"))
    found = tokenizations(tokenizer, [word], "stop_words")
    heads = [tokenizer.encode(anchor, add_special_tokens=False) for anchor in "(-x"]
    wholes = [tokenizer.encode(anchor + word, add_special_tokens=False) for anchor in "(-x"]
    for head, ids in zip(heads, wholes, strict=True):
        if ids[: len(head)] == head:
            assert tuple(ids[len(head) :]) in found
            return


def test_merged_unknown_characters_give_no_part_of_a_word(tmp_path: Path) -> None:
    pieces = ["<unk>", "</s>", "\u2581", "a", "\u2581a", "b"]
    library = tokenizers.Tokenizer(models.Unigram([(p, -1.0) for p in pieces], unk_id=0))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    library.add_special_tokens(["<unk>", "</s>"])
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"unk_token": "<unk>"}))
    tokenizer = create(TokenizerSettings(str(tmp_path)))
    assert library.encode("(\u4e2da").ids == [2, 0, 3], "they merge into one token"
    found = tokenizations(tokenizer, ["\u4e2da"], "bad_words")
    assert (3,) not in found, "this would ban every a"
    assert (3, 5) in tokenizations(tokenizer, ["ab"], "bad_words")
