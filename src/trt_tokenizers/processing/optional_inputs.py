"""What newer engines take beside the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.processing.request import TextRequest
from trt_tokenizers.streams.limits import check_characters
from trt_tokenizers.tokenizers.base import Tokenizer

Array = npt.NDArray[Any]


def optional_arrays(
    request: TextRequest,
    input_ids: npt.NDArray[np.int32],
    tokenizer: Tokenizer,
    vocab_size: int,
    most_characters: int,
) -> dict[str, Array]:
    """Arrays for encoder-decoder and multimodal models, if the client sent their inputs.

    Args:
        request: whose inputs are converted.
        input_ids: int32 [rows, n].
        tokenizer: encodes the decoder's text.
        vocab_size: of the engine; 0 if unknown.
        most_characters: maximum length of a text.

    Returns:
        For decoder_text_input: DECODER_INPUT_ID int32 [rows, n], REQUEST_DECODER_INPUT_LEN int32
        [rows, 1]. For prompt_table_extra_id: OUT_PROMPT_TABLE_EXTRA_IDS uint64 [rows, n].

    Raises:
        RequestError: a text is not UTF-8, or too long.
    """
    arrays: dict[str, Array] = {}
    if any(request.inputs.get("decoder_text_input") or ()):
        rows = []
        for row in range(request.rows):
            text = request.text("decoder_text_input", row)
            check_characters(len(text), most_characters, "decoder_text_input")
            rows.append(tokenizer.encode(text))
        ids = np.full((len(rows), max(1, *map(len, rows))), tokenizer.pad_id, dtype=np.int32)
        for row, encoded in enumerate(rows):
            ids[row, : len(encoded)] = encoded
        arrays["DECODER_INPUT_ID"] = ids
        arrays["REQUEST_DECODER_INPUT_LEN"] = np.array([[len(r)] for r in rows], dtype=np.int32)
    extra_ids = request.inputs.get("prompt_table_extra_id")
    if extra_ids is not None and vocab_size:
        # Ids beyond the vocabulary select rows of the prompt embedding table.
        extra = np.array(extra_ids, dtype=np.uint64).reshape(-1, 1)
        arrays["OUT_PROMPT_TABLE_EXTRA_IDS"] = np.where(
            input_ids >= vocab_size, extra, np.uint64(0)
        )
    return arrays
