"""The word lists of a request: stop_words, bad_words, embedding_bias_words."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import RequestError
from trt_tokenizers.processing.request import TextRequest, text_of
from trt_tokenizers.processing.stop_words import embedding_bias, logit_bias
from trt_tokenizers.streams.limits import check_characters
from trt_tokenizers.tokenizers.base import Tokenizer


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
        words = self._texts(request, name, row)
        if self._csv_form:
            words = [word for line in words for word in next(csv.reader([line]), [])]
            self._check_number(words, name)
        return tuple(word for word in words if word)

    def embedding_bias(self, request: TextRequest, row: int) -> npt.NDArray[np.float32] | None:
        """The bias of each logit; None if the request has neither embedding_bias_words nor
        logit_bias_ids."""
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
