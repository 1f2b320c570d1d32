"""A request's tensors: checked, and turned into what newer engines take beside the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import RequestError
from trt_tokenizers.tokenizers.base import Tokenizer
from trt_tokenizers.tokenizers.files import read_json

Array = npt.NDArray[Any]


def scalars(name: str, array: Array | None) -> list[Any] | None:
    """One scalar per row of the batch, or None if the client did not send the input.

    Raises:
        RequestError: it holds more than one value per row.
    """
    if array is None:
        return None
    if array.size != len(array):
        raise RequestError(f"{name} has the shape {list(array.shape)}; send one value per row")
    values: list[Any] = array.ravel().tolist()
    return values


def as_declared(arrays: Mapping[str, Array], types: Mapping[str, Any]) -> dict[str, Array]:
    """*arrays* as the model's config.pbtxt declares its outputs: those it has, of their types.

    TensorRT-LLM 0.5 has unsigned lengths and ids; there -1, which means none, is left out.

    Args:
        types: output -> numpy's type.
    """
    declared = {}
    for name, array in arrays.items():
        dtype = types.get(name)
        if dtype is None or (np.issubdtype(dtype, np.unsignedinteger) and array.min() < 0):
            continue
        declared[name] = array if array.dtype == dtype else array.astype(dtype)
    return declared


class OptionalInputs:
    """Inputs that preprocessing turns into arrays for the engine only if a client sends them."""

    def __init__(self, tokenizer: Tokenizer, tokenizer_dir: str, vocab_size: int) -> None:
        """
        Args:
            vocab_size: of the engine; 0: as config.json in *tokenizer_dir* says.
        """
        self._tokenizer = tokenizer
        found = read_json(Path(tokenizer_dir) / "config.json").get("vocab_size", 0)
        self._vocab_size = vocab_size or (found if isinstance(found, int) else 0)

    def arrays(self, inputs: Mapping[str, Array], input_ids: Array) -> dict[str, Array]:
        """
        Args:
            inputs: name -> array of the request; the first dimension is the batch.
            input_ids: int32 [rows, n].

        Returns:
            of these what was asked for: DECODER_INPUT_ID int32 [rows, n] and
            REQUEST_DECODER_INPUT_LEN int32 [rows, 1]; EMBEDDING_BIAS float32 [rows, vocab_size];
            OUT_PROMPT_TABLE_EXTRA_IDS uint64 [rows, n].

        Raises:
            RequestError: words and weights do not go together, or the vocabulary's size is unknown.
        """
        made: dict[str, Array] = {}
        texts = scalars("decoder_text_input", inputs.get("DECODER_QUERY"))
        if texts is not None and any(texts):
            made |= self._decoder(texts)
        words = inputs.get("EMBEDDING_BIAS_WORDS")
        if words is not None and any(words.ravel()):
            weights = inputs.get("EMBEDDING_BIAS_WEIGHTS")
            if weights is None or weights.shape != words.shape:
                raise RequestError(
                    "embedding_bias_words and embedding_bias_weights differ in number; send one "
                    "weight for each word"
                )
            made["EMBEDDING_BIAS"] = self._embedding_bias(
                words.reshape(len(words), -1).tolist(), weights.reshape(len(weights), -1).tolist()
            )
        extra = inputs.get("PROMPT_TABLE_EXTRA_ID")
        if extra is not None and self._vocab_size:
            # Ids beyond the vocabulary stand for rows of the prompt embedding table.
            made["OUT_PROMPT_TABLE_EXTRA_IDS"] = np.where(
                input_ids >= self._vocab_size, extra.reshape(-1, 1), 0
            ).astype(np.uint64)
        return made

    def _decoder(self, texts: Sequence[bytes]) -> dict[str, Array]:
        rows = [self._tokenizer.encode(text.decode(errors="replace")) for text in texts]
        width = max(1, *map(len, rows))
        ids = np.full((len(rows), width), self._tokenizer.pad_id, dtype=np.int32)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
        lengths = np.array([[len(row)] for row in rows], dtype=np.int32)
        return {"DECODER_INPUT_ID": ids, "REQUEST_DECODER_INPUT_LEN": lengths}

    def _embedding_bias(
        self, words: Sequence[Sequence[bytes]], weights: Sequence[Sequence[float]]
    ) -> Array:
        if not self._vocab_size:
            raise RequestError(
                "embedding_bias_words cannot be served: the size of the engine's vocabulary is "
                "not known; set vocab_size of the model preprocessing, or leave them out"
            )
        bias = np.zeros((len(words), self._vocab_size), dtype=np.float32)
        for row, its_words in enumerate(words):
            for word, weight in zip(its_words, weights[row], strict=True):
                text = word.decode(errors="replace")
                for token_id in self._tokenizer.encode(text, add_special_tokens=False):
                    if token_id < self._vocab_size:
                        bias[row, token_id] += weight
        return bias
