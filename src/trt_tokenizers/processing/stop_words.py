"""The word lists of a request: stop_words, bad_words, embedding_bias_words; text -> token ids."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import RequestError
from trt_tokenizers.processing.request import TextRequest, text_of
from trt_tokenizers.streams.limits import check_characters
from trt_tokenizers.streams.word_arrays import TokenIds
from trt_tokenizers.tokenizers.base import Tokenizer

#: Characters that a word may follow without a space. T5-like tokenizers drop line ends.
_ANCHORS = ("\n", "(", "-", "x")
_BIAS_INPUTS = (
    "embedding_bias_words", "embedding_bias_weights", "logit_bias_ids", "logit_bias_values",
)  # fmt: skip


class WordInputs:
    """Reads word lists; checks their encoding, number and total length before they cost time."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        *,
        max_words: int,
        most_characters: int,
        csv_form: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_words = max_words
        self._most_characters = most_characters
        self._csv_form = csv_form

    def words(self, request: TextRequest, name: str, row: int) -> tuple[str, ...]:
        """The words in the input *name*; empty ones, which clients send for none, are dropped."""
        if name not in request.inputs:
            return ()
        words = self._texts(request, name, row)
        if self._csv_form:
            words = [word for line in words for word in next(csv.reader([line]), [])]
            self._check_number(words, name)
        return tuple(word for word in words if word)

    def embedding_bias(self, request: TextRequest, row: int) -> npt.NDArray[np.float32] | None:
        """The bias of each logit; None if the request has neither embedding_bias_words nor
        logit_bias_ids."""
        if request.inputs.keys().isdisjoint(_BIAS_INPUTS):
            return None
        words = self._texts(request, "embedding_bias_words", row)
        weights = request.at("embedding_bias_weights", row, ())
        ids, values = (request.at(f"logit_bias_{part}", row, ()) for part in ("ids", "values"))
        bias = None
        if words or weights:
            bias = embedding_bias(self._tokenizer, words, weights, self._vocab_size)
        if ids or values:
            self._check_number(ids, "logit_bias_ids")
            bias = logit_bias(ids, values, self._vocab_size, bias)
        return bias

    def _texts(self, request: TextRequest, name: str, row: int) -> list[str]:
        values = request.at(name, row, ())
        self._check_number(values, name)
        texts = [text_of(value, name) for value in values]
        check_characters(sum(map(len, texts)), self._most_characters, name)
        return texts

    def _check_number(self, words: Sequence[Any], name: str) -> None:
        if len(words) > self._max_words:
            raise RequestError(
                f"{name} has {len(words)} words and at most {self._max_words} are served; send "
                "fewer, or set max_words of the model preprocessing"
            )


def tokenizations(tokenizer: Tokenizer, words: Iterable[str], name: str) -> list[TokenIds]:
    """Token ids of each word at the start of a text, after a space, and inside a line.

    Empty words are skipped: clients send ``[""]`` for none.

    Raises:
        RequestError: a word has no tokens, or unknown characters only; *name* is its parameter.
    """
    found: dict[TokenIds, None] = {}
    anchors: dict[str, list[int]] = {}
    for word in words:
        if not word:
            continue
        alone = _ids(tokenizer, word, name)
        found[tuple(alone)] = None
        found[tuple(tokenizer.encode(f" {word}", add_special_tokens=False))] = None
        if inner := _inner(tokenizer, word, alone, anchors):
            found[inner] = None
    return list(found)


def _inner(
    tokenizer: Tokenizer, word: str, alone: Sequence[int], anchors: dict[str, list[int]]
) -> TokenIds:
    """Ids of *word* inside a line: those after the first of `_ANCHORS` whose own ids it does not
    change; empty if there is none. *alone* are its ids at the start of a text, and *anchors* is a
    cache of the anchors' ids."""
    for anchor in _ANCHORS:
        before = anchors.get(anchor)
        if before is None:
            before = anchors[anchor] = tokenizer.encode(anchor, add_special_tokens=False)
        if not before:  # the tokenizer drops this anchor
            continue
        # Adjacent unknown characters merge into one unknown token.
        if tokenizer.unk_id in before and tokenizer.unk_id in alone:
            continue
        ids = tokenizer.encode(anchor + word, add_special_tokens=False)
        if ids[: len(before)] == before and len(ids) > len(before):
            return tuple(ids[len(before) :])
    return ()


def embedding_bias(
    tokenizer: Tokenizer, words: Sequence[str], weights: Sequence[float], vocab_size: int
) -> npt.NDArray[np.float32] | None:
    """The bias of each logit, float32 [vocab_size]; None if all words are empty.

    Each token of a word gets the word's weight, once per occurrence. As in TensorRT-LLM's own
    preprocessing, these are the tokens of the word at the start of a text. Special tokens that the
    tokenizer adds get no bias.

    Raises:
        RequestError: the numbers of words and weights differ, a weight is not finite, a word has
            no tokens, or a token is not below *vocab_size*, which is 0 if unknown.
    """
    if len(words) != len(weights):
        raise RequestError(
            f"embedding_bias_words has {len(words)} words and embedding_bias_weights has "
            f"{len(weights)} weights; send one weight for each word"
        )
    if not any(words):
        return None
    bias = np.zeros(vocab_size, dtype=np.float32)
    for word, weight in zip(words, weights, strict=True):
        if not word:
            continue
        if not np.isfinite(weight):
            raise RequestError(f"embedding_bias_weights has {weight}; send finite numbers")
        ids = _ids(tokenizer, word, "embedding_bias_words")
        if max(ids) >= vocab_size:
            raise RequestError(
                f"embedding_bias_words: {word!r} has the token {max(ids)}, but vocab_size is "
                f"{vocab_size}; leave the word out, or set vocab_size of the model preprocessing"
            )
        np.add.at(bias, ids, weight)
    return bias


def logit_bias(
    ids: Sequence[int],
    values: Sequence[float],
    vocab_size: int,
    bias: npt.NDArray[np.float32] | None,
) -> npt.NDArray[np.float32]:
    """*bias*, float32 [vocab_size], with *values* added at *ids*.

    Raises:
        RequestError: the numbers of ids and values differ, a value is not finite, or an id is not
            below *vocab_size*, which is 0 if unknown.
    """
    if len(ids) != len(values):
        raise RequestError(
            f"logit_bias_ids has {len(ids)} ids and logit_bias_values has {len(values)} values; "
            "send one value for each id"
        )
    if not np.isfinite(values).all():
        raise RequestError("logit_bias_values has a value that is not finite; send finite numbers")
    for extreme in (min(ids), max(ids)):
        if not 0 <= extreme < vocab_size:
            raise RequestError(
                f"logit_bias_ids has the token {extreme}, but vocab_size is {vocab_size}; leave it "
                "out, or set vocab_size of the model preprocessing"
            )
    total = np.zeros(vocab_size, dtype=np.float32) if bias is None else bias
    np.add.at(total, ids, values)
    return total


def _ids(tokenizer: Tokenizer, word: str, name: str) -> list[int]:
    """Ids of *word*. A word of unknown characters only is refused: its id stands for every other
    unknown character too."""
    ids = tokenizer.encode(word, add_special_tokens=False)
    if not ids:
        raise RequestError(f"{name}: {word!r} has no tokens; leave it out")
    if (unk := tokenizer.unk_id) in ids and tokenizer.special_tokens.get("unk_token") != word:
        known = [i for i in ids if i != unk]
        if not tokenizer.decode(known, skip_special_tokens=False).strip():
            raise RequestError(
                f"{name}: {word!r} has only characters that the tokenizer does not know; "
                "leave it out"
            )
    return ids
