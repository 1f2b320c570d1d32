"""Every stream's texts, joined, equal the decoded ids, however the ids are divided."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from texts import HARD_TEXTS
from trt_tokenizers.processing.stop_strings import StopStrings
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.detokenize import WindowStreamDecoder
from trt_tokenizers.tokenizers.registry import create

TYPES = {"auto": "bpe_dir", "llama": "sentencepiece_dir", "gpt2": "gpt2_dir",
         "sentencepiece": "sentencepiece_dir"}  # fmt: skip


@pytest.fixture(scope="module", params=TYPES)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    folder: Path = request.getfixturevalue(TYPES[request.param])
    return create(TokenizerSettings(str(folder), request.param))


def streamed(tokenizer: Tokenizer, ids: Sequence[int], cuts: Sequence[int], skip: bool) -> str:
    stream = tokenizer.stream(skip_special_tokens=skip)
    edges = [0, *sorted({c % (len(ids) + 1) for c in cuts}), len(ids)]
    pieces = [stream.feed(ids[a:b]) for a, b in pairwise(edges)]
    return "".join([*pieces, stream.finish()])


@pytest.mark.parametrize("text", HARD_TEXTS, ids=range(len(HARD_TEXTS)))
def test_hard_texts_are_restored_at_every_split(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    for cut in range(len(ids) + 1):
        assert streamed(tokenizer, ids, [cut], skip=True) == text
    assert streamed(tokenizer, ids, range(len(ids)), skip=True) == text


@given(text=st.text(), cuts=st.lists(st.integers(0, 200)))
def test_any_text_any_division(tokenizer: Tokenizer, text: str, cuts: list[int]) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert streamed(tokenizer, ids, cuts, skip=True) == tokenizer.decode(ids)
    if "<" not in text:  # no special token written out
        assert tokenizer.decode(ids) == text


@given(ids=st.lists(st.integers(0, 700)), cuts=st.lists(st.integers(0, 200)), skip=st.booleans())
def test_any_ids_any_division(
    tokenizer: Tokenizer, ids: list[int], cuts: list[int], skip: bool
) -> None:
    """Engines may stop inside a character, or return ids beyond the vocabulary."""
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    assert streamed(tokenizer, ids, cuts, skip) == whole


@given(ids=st.lists(st.integers(0, 599)))
def test_any_ids_decode_as_with_the_library(
    bpe_dir: Path, sentencepiece_dir: Path, ids: list[int]
) -> None:
    """For invalid UTF-8 both give U+FFFD, but different numbers of them."""
    bpe = tokenizers.Tokenizer.from_file(str(bpe_dir / "tokenizer.json"))
    model = str(sentencepiece_dir / "tokenizer.model")
    sp = sentencepiece.SentencePieceProcessor(model_file=model)
    # The library has its own text for an unknown token.
    sp_ids = [i for i in ids if i < sp.get_piece_size() and i != sp.unk_id()]
    for ours, its, library in (
        (create(TokenizerSettings(str(bpe_dir))), ids, bpe.decode(ids)),
        (create(TokenizerSettings(str(sentencepiece_dir), "llama")), sp_ids, sp.decode(sp_ids)),
    ):
        replaced = re.compile("\N{REPLACEMENT CHARACTER}+")
        assert replaced.sub("?", ours.decode(its)) == replaced.sub("?", library)


@given(ids=st.lists(st.integers(0, 600)))
def test_emitted_text_is_final(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Each prefix of the stream is a prefix of the whole text."""
    stream = tokenizer.stream()
    text = ""
    whole = tokenizer.decode(ids)
    for i in ids:
        text += stream.feed([i])
        assert whole.startswith(text)


@given(ids=st.lists(st.integers(0, 600)), cuts=st.lists(st.integers(0, 200)))
def test_window_decoder_equals_byte_decoder(
    tokenizer: Tokenizer, ids: list[int], cuts: list[int]
) -> None:
    """For ids of complete characters."""
    ids = tokenizer.encode(tokenizer.decode(ids).replace("\N{REPLACEMENT CHARACTER}", "?"),
                           add_special_tokens=False)  # fmt: skip
    window = WindowStreamDecoder(tokenizer.decode)
    edges = [0, *sorted({c % (len(ids) + 1) for c in cuts}), len(ids)]
    pieces = [window.feed(ids[a:b]) for a, b in pairwise(edges)]
    assert "".join([*pieces, window.finish()]) == tokenizer.decode(ids)


def test_window_decoder_if_a_decode_changes_earlier_text() -> None:
    """ByteFallback of `tokenizers` does: an incomplete byte replaces the characters before it."""
    texts = {(1,): "é", (1, 2): "\ufffd\ufffd\ufffd", (1, 2, 3): "\ufffd\ufffd\ufffda"}
    window = WindowStreamDecoder(lambda ids: texts.get(tuple(ids), "\ufffda"))
    assert window.feed([1]) == "é"
    assert window.feed([2]) == ""
    assert window.feed([3]) == "\ufffd\ufffda", "emitted text stays"


def test_the_public_module_exports_the_decoders() -> None:
    """docs/plugins.md names it for tokenizer types of other packages."""
    from trt_tokenizers import detokenize

    assert detokenize.WindowStreamDecoder is WindowStreamDecoder
    assert issubclass(detokenize.ByteStreamDecoder, detokenize.StreamDecoder)


def cut(text: str, stops: Sequence[str], include: bool) -> str:
    """Reference on the whole text: the stop string that is complete first ends it."""
    for end in range(len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if stop and text[:end].endswith(stop):
                return text[: end if include else end - len(stop)]
    return text


@given(
    text=st.text("abc\n", max_size=30),
    stops=st.lists(st.text("abc\n", max_size=4), max_size=4),
    sizes=st.lists(st.integers(1, 5)),
    include=st.booleans(),
)
def test_stop_strings_end_a_stream_as_they_end_the_whole_text(
    text: str, stops: list[str], sizes: list[int], include: bool
) -> None:
    filter_ = StopStrings(stops, include=include)
    out, at = "", 0
    longest = max(map(len, stops), default=0)
    for size in [*sizes, len(text)]:
        out += filter_.feed(text[at : at + size])
        at = min(len(text), at + size)
        if not filter_.stopped:
            assert len(out) >= at - max(0, longest - 1), (
                "holds back at most the longest stop string less one character"
            )
    out += filter_.finish()
    assert out == cut(text, stops, include)
