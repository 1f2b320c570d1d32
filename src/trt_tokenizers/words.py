"""Stop words, bad words and embedding bias: text -> the engine's padded arrays, and back.

TensorRT-LLM's form of a word list is int32 [batch, 2, n]: row 0 holds the ids of all words end
to end, row 1 the running end offset of each word, padded with -1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import RequestError
from trt_tokenizers.tokenizers.base import Tokenizer

TokenIds = tuple[int, ...]


def tokenizations(tokenizer: Tokenizer, words: Iterable[str], name: str) -> list[TokenIds]:
    """Every way in which *words* may begin a run of tokens: as at the beginning of a text, after
    a space, and in the middle of a line. Empty words are passed over: clients send ``[""]``.

    Raises:
        RequestError: a word has no tokens of its own; *name* is the parameter to blame.
    """
    found: dict[TokenIds, None] = {}
    newline: list[int] | None = None
    for word in words:
        if not word:
            continue
        found[tuple(_ids(tokenizer, word, name))] = None
        found[tuple(tokenizer.encode(f" {word}", add_special_tokens=False))] = None
        if newline is None:
            newline = tokenizer.encode("\n", add_special_tokens=False)
        inner = tokenizer.encode(f"\n{word}", add_special_tokens=False)
        if inner[: len(newline)] == newline and len(inner) > len(newline):
            found[tuple(inner[len(newline) :])] = None
    return list(found)


def embedding_bias(
    tokenizer: Tokenizer, words: Sequence[str], weights: Sequence[float], vocab_size: int
) -> npt.NDArray[np.float32] | None:
    """What to add to each logit: float32 [vocab_size], or None where there is nothing to add.

    Every token of a word gets the word's weight, as often as it stands in it; special tokens that
    the tokenizer would put around a text get none.

    Raises:
        RequestError: as many words as weights are wanted; a word without tokens of its own; a
            token beyond *vocab_size*, which is 0 where the server does not know it.
    """
    pairs = [(word, weight) for word, weight in zip(words, weights, strict=False) if word]
    if len(words) != len(weights):
        raise RequestError(
            f"embedding_bias_words has {len(words)} words and embedding_bias_weights has "
            f"{len(weights)} weights; send one weight for each word"
        )
    if not pairs:
        return None
    bias = np.zeros(vocab_size, dtype=np.float32)
    for word, weight in pairs:
        if not np.isfinite(weight):
            raise RequestError(f"embedding_bias_weights has {weight}; send finite numbers")
        ids = _ids(tokenizer, word, "embedding_bias_words")
        if max(ids) >= vocab_size:
            raise RequestError(
                f"embedding_bias_words: {word!r} has the token {max(ids)} and the server knows of "
                f"{vocab_size}; leave it out, or set vocab_size of the model preprocessing"
            )
        np.add.at(bias, ids, weight)
    return bias


def _ids(tokenizer: Tokenizer, word: str, name: str) -> list[int]:
    """Ids of *word*; one of unknown characters alone would stand for every other unknown one."""
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


def to_array(rows: Sequence[Sequence[TokenIds]]) -> npt.NDArray[np.int32]:
    """The word lists of a batch, int32 [len(rows), 2, n], n at least 1.

    A row without words has no offsets but -1, which the engine takes for an empty list.
    """
    width = max(1, *(max(sum(map(len, words)), len(words)) for words in rows))
    array = np.zeros((len(rows), 2, width), dtype=np.int32)
    array[:, 1, :] = -1
    for row, words in enumerate(rows):
        flat = [i for word in words for i in word]
        array[row, 0, : len(flat)] = flat
        array[row, 1, : len(words)] = np.cumsum([len(word) for word in words])
    return array


def from_array(row: npt.NDArray[np.int32]) -> tuple[TokenIds, ...]:
    """The words of one row, int32 [2, n].

    Raises:
        RequestError: the offsets do not rise or point outside the ids.
    """
    ids, offsets = row[0].tolist(), row[1].tolist()
    words, start = [], 0
    for end in offsets:
        if end < 0:
            break
        if not start < end <= len(ids):
            raise RequestError(f"word list offset {end} after {start} with {len(ids)} ids is wrong")
        words.append(tuple(ids[start:end]))
        start = end
    return tuple(words)
