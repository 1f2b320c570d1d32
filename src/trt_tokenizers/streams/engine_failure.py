"""An engine's error as tensors: from the engine to postprocessing, which answers with the error.

Triton 24.10, and others before pull request 466 of its core, never end a request of an ensemble if
one step fails while another one runs. So an engine whose responses are on their way through
postprocessing does not fail: its last response carries the error, and postprocessing fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import (
    EngineError,
    RequestError,
    TrtTokenizersError,
    UnavailableError,
)

_KINDS = (EngineError, RequestError, UnavailableError)


def to_arrays(keys: Sequence[int], error: TrtTokenizersError) -> dict[str, npt.NDArray[Any]]:
    """The engine's last response to a request.

    Args:
        keys: the stream key of each row.

    Returns:
        stream_key int64 [rows, 1], negative; output_ids int32 [rows, 1, n]: the kind of the error,
        then the bytes of its text.
    """
    kind = next((at for at, each in enumerate(_KINDS) if isinstance(error, each)), 0)
    text = str(error).encode(errors="backslashreplace")
    ids = np.array([kind, *text], dtype=np.int32)
    return {
        "output_ids": np.tile(ids, (len(keys), 1, 1)),
        "stream_key": ~np.array(keys, dtype=np.int64)[:, None],
    }


def from_arrays(
    ids: npt.NDArray[Any], packed: Sequence[int]
) -> tuple[list[int], TrtTokenizersError] | None:
    """The inverse of `to_arrays`; None if the response carries no error.

    Args:
        ids: TOKENS_BATCH of postprocessing.
        packed: STREAM_KEY of each row.
    """
    if packed[0] >= 0:
        return None
    kind, *text = ids[0, 0].tolist()
    return [~key for key in packed], _KINDS[kind](bytes(text).decode())
