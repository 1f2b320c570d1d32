"""Word lists as TensorRT-LLM's arrays: preprocessing writes them, Python engines read them.

A list is int32 [batch, 2, n]: row 0 holds the ids of all words end to end, row 1 the running end
offset of each word, padded with -1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import RequestError

TokenIds = tuple[int, ...]


def to_array(rows: Sequence[Sequence[TokenIds]]) -> npt.NDArray[np.int32]:
    """The word lists of a batch as int32 [len(rows), 2, n], n at least 1.

    All offsets of a row without words are -1; the engine reads that as an empty list.
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
        RequestError: the offsets do not increase, or exceed the number of ids.
    """
    ids, offsets = row[0].tolist(), row[1].tolist()
    words, start = [], 0
    for end in offsets:
        if end < 0:
            break
        if not start < end <= len(ids):
            raise RequestError(
                f"word list offset {end} is wrong; offsets must increase, to at most {len(ids)}"
            )
        words.append(tuple(ids[start:end]))
        start = end
    return tuple(words)
