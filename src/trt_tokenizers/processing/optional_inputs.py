"""What newer engines take beside the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.processing.request import TextRequest, text_of
from trt_tokenizers.streams.limits import check_characters
from trt_tokenizers.tokenizers.base import Tokenizer

Array = npt.NDArray[Any]


class OptionalInputs:
    """Inputs that preprocessing turns into arrays for the engine only if a client sends them."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, most_characters: int) -> None:
        """
        Args:
            vocab_size: of the engine; 0: nobody knows.
            most_characters: of a text.
        """
        self._most_characters = most_characters
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size

    def arrays(self, request: TextRequest, input_ids: npt.NDArray[np.int32]) -> dict[str, Array]:
        """
        Args:
            input_ids: int32 [rows, n].

        Returns:
            of these what was asked for: DECODER_INPUT_ID int32 [rows, n] and
            REQUEST_DECODER_INPUT_LEN int32 [rows, 1]; OUT_PROMPT_TABLE_EXTRA_IDS uint64 [rows, n].

        Raises:
            RequestError: a text is not UTF-8, or too long.
        """
        made: dict[str, Array] = {}
        if request.decoder_text_input is not None and any(request.decoder_text_input):
            made |= self._decoder(request.decoder_text_input)
        if request.prompt_table_extra_id is not None and self._vocab_size:
            # Ids beyond the vocabulary stand for rows of the prompt embedding table.
            extra = np.array(request.prompt_table_extra_id, dtype=np.uint64).reshape(-1, 1)
            beyond = input_ids >= self._vocab_size
            made["OUT_PROMPT_TABLE_EXTRA_IDS"] = np.where(beyond, extra, np.uint64(0))
        return made

    def _decoder(self, texts: Sequence[bytes]) -> dict[str, Array]:
        rows = []
        for raw in texts:
            text = text_of(raw, "decoder_text_input")
            check_characters(len(text), self._most_characters, "decoder_text_input")
            rows.append(self._tokenizer.encode(text))
        width = max(1, *map(len, rows))
        ids = np.full((len(rows), width), self._tokenizer.pad_id, dtype=np.int32)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
        lengths = np.array([[len(row)] for row in rows], dtype=np.int32)
        return {"DECODER_INPUT_ID": ids, "REQUEST_DECODER_INPUT_LEN": lengths}
