"""Long texts are encoded in pieces; the reference are the library's ids of the whole text."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from texts import HARD_TEXTS
from trt_tokenizers.tokenizers import split_long_text
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.fast import FastTokenizer

S = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
MARKS = r" ?[^\s\p{L}\p{N}]+"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
CAMEL = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|"
)


def split(pattern: str, **more: Any) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), **{"behavior": "isolated", **more})


LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
#: As the models' own tokenizer.json have them.
PUBLISHED = {
    "gpt2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ],
    "llama3": [
        split(rf"{S}|{WORD}|\p{{N}}{{1,3}}|{MARKS}[\r\n]*|{SPACES}"),
        LEVEL,
    ],
    "qwen": [
        split(rf"{S}|{WORD}|\p{{N}}|{MARKS}[\r\n]*|{SPACES}", behavior="removed", invert=True),
        LEVEL,
    ],
    "o200k": [
        split(CAMEL % (S + "?", S + "?") + rf"\p{{N}}{{1,3}}|{MARKS}[\r\n/]*|{SPACES}"),
        LEVEL,
    ],
    "tekken": [
        split(CAMEL % ("", "") + rf"\p{{N}}|{MARKS}[\r\n/]*|{SPACES}"),
        LEVEL,
    ],
    "deepseek": [
        split(r"\p{N}{1,3}"),
        split(r"[一-龥぀-ゟ゠-ヿ]+"),
        split(
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?"
            "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
        ),
        LEVEL,
    ],
}  # fmt: skip


def backend(*steps: pre_tokenizers.PreTokenizer) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    made.train_from_iterator(HARD_TEXTS * 3, trainer)
    return made


@pytest.fixture(autouse=True)
def _split_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split texts wherever they can be split."""
    monkeypatch.setattr(split_long_text, "PIECE", 1)
    monkeypatch.setattr(split_long_text, "LONG", 2)


WORDS = st.sampled_from([
    "a", " ", "b ", " c", "it's", "'S", "'ll ", "'", "\n", "\r\n", "  ", "\t", " x y", "Ab", "aB ",
    " É", "1", "12 ", ".", ", ", "!?\n", "/ ", "世界", "\u0301", "\u3000", "ﬁ ", "½ a", "<s>",
    "</s>", "foo", "bar ",
])  # fmt: skip
TEXTS = st.lists(WORDS, max_size=14).map("".join)


@pytest.mark.parametrize("form", [None, normalizers.NFC(), normalizers.NFKC()], ids=str)
@pytest.mark.parametrize("name", PUBLISHED)
def test_pieces_have_the_ids_of_the_whole(bpe_dir: Path, name: str, form: Any) -> None:
    whole = backend(*PUBLISHED[name])
    if form is not None:
        whole.normalizer = form
    whole.add_tokens([
        AddedToken("foo", lstrip=True), AddedToken("bar", single_word=True), "b", "    ",
        AddedToken("?", rstrip=True), AddedToken(" É", normalized=True),
    ])  # fmt: skip
    whole.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    assert split_long_text.can_split(whole)
    ours = FastTokenizer(TokenizerSettings(str(bpe_dir)), whole, always_bos=True)

    @given(TEXTS)
    def check(text: str) -> None:
        for special in (False, True):
            expected = whole.encode(text, add_special_tokens=special).ids
            # The files in bpe_dir name another BOS, so only the library adds tokens.
            assert ours._encode(["x y", text], special) == [
                whole.encode("x y", add_special_tokens=special).ids, expected
            ]  # fmt: skip
            assert ours._encode([text], special) == [expected]

    check()
    for text in HARD_TEXTS:
        expected = whole.encode(text * 2, add_special_tokens=False).ids
        assert ours._encode([text * 2], False) == [expected]


def test_pieces_join_to_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_long_text.pieces("a b c d") == ["a", " b", " c", " d"]
    monkeypatch.setattr(split_long_text, "PIECE", 4)
    monkeypatch.setattr(split_long_text, "LONG", 8)
    assert split_long_text.pieces("a b c d e f g") == ["a b c", " d e f g"]
    for text in ("", "a", "ab" * 99, "世界 " * 99, "A B " * 9, "a  b" * 9):
        assert split_long_text.pieces(text) == [text]


UNSURE = {
    "no pre-tokenizer": (),
    "Metaspace": (pre_tokenizers.Metaspace(),),
    "a space in front": (pre_tokenizers.ByteLevel(add_prefix_space=True),),
    "only numbers": (split(r"\p{N}{1,3}"), LEVEL),
    "only uppercase words": (split(r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
                                   r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"), LEVEL),
    "words and their spaces": (split(r"\p{L}+\s*"), LEVEL),
    "a look ahead": (split(r" ?\p{L}+(?=\s)| ?\p{L}+"), LEVEL),
    "merged with the next": (split(r"\s+", behavior="merged_with_next"),
                             pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "removed": (split(r" ?\p{L}+", behavior="removed"), LEVEL),
    "a plain text": (pre_tokenizers.Split(" ", "isolated"), LEVEL),
    "bytes before words": (LEVEL, split(r" ?\p{L}+")),
    "bytes twice": (LEVEL, pre_tokenizers.ByteLevel(add_prefix_space=False)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSURE)
def test_unknown_pre_tokenizers_are_not_split(name: str) -> None:
    made = tokenizers.Tokenizer(models.BPE())
    if UNSURE[name]:
        made.pre_tokenizer = pre_tokenizers.Sequence(list(UNSURE[name]))
    assert not split_long_text.can_split(made)


@pytest.mark.parametrize(
    ("token", "splits"),
    [
        (AddedToken("foo bar"), False),
        (AddedToken("foo "), False),
        (AddedToken("x\u00a0y"), False),
        (AddedToken("x´"), False),  # NFKC changes it to a space
        (AddedToken("foo", rstrip=True), False),
        (AddedToken("<foo>", rstrip=True), True),
        (AddedToken(" foo"), True),
        (AddedToken(" foo", single_word=True), False),  # inspects the letter before it
        (AddedToken("  "), True),
        (AddedToken("foo", lstrip=True, single_word=True), True),
    ],
)
def test_added_tokens_that_may_span_a_split(token: AddedToken, splits: bool) -> None:
    made = backend(*PUBLISHED["gpt2"])
    made.add_tokens([token])
    assert split_long_text.can_split(made) is splits


@pytest.mark.parametrize(
    "normalizer",
    [normalizers.Lowercase(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"),
     normalizers.Strip(), normalizers.Sequence([normalizers.NFC(), normalizers.StripAccents()])],
    ids=str,
)  # fmt: skip
def test_unknown_normalizers_are_not_split(normalizer: Any) -> None:
    made = backend(*PUBLISHED["gpt2"])
    assert split_long_text.can_split(made)
    made.normalizer = normalizer
    assert not split_long_text.can_split(made)


def test_pre_tokenizers_in_python_are_not_split(bpe_dir: Path) -> None:
    class InPython:
        def pre_tokenize(self, text: Any) -> None:
            text.split(lambda _, piece: piece.split(" ", "isolated"))

    made = backend(*PUBLISHED["gpt2"])
    made.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(InPython())
    assert not split_long_text.can_split(made)
    ours = FastTokenizer(TokenizerSettings(str(bpe_dir)), made)
    assert ours._encode(["a b"], False) == [made.encode("a b").ids]


@pytest.mark.parametrize(
    ("bare", "framed", "expected"),
    [
        ([5], [1, 5, 2], ([1], [2])),
        ([5], [5], ([], [])),
        ([5, 6], [5, 6, 2], ([], [2])),
        ([5], [5, 5], None),
        ([], [1, 2], None),
        ([5], [1, 2], None),
    ],
)
def test_tokens_that_the_library_adds_around_a_text(
    bpe_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    bare: list[int],
    framed: list[int],
    expected: tuple[list[int], list[int]] | None,
) -> None:
    """None is expected where "a" is unknown, or equals a token that the library adds."""
    ours = FastTokenizer(TokenizerSettings(str(bpe_dir)), backend(*PUBLISHED["gpt2"]))
    assert ours._splits

    class Library:
        def encode(self, text: str, add_special_tokens: bool) -> Any:
            return types.SimpleNamespace(ids=bare)

    monkeypatch.setattr(ours, "_backend", Library())
    assert ours._find_frame(framed) is (expected is not None)
    if expected:
        assert (ours._before, ours._after) == expected
