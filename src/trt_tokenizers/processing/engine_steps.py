"""The engine's output tensors -> one step per sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from trt_tokenizers.processing.request import scalars
from trt_tokenizers.streams.stream_key import FinishReason, unpack


@dataclass(slots=True)
class EngineStep:
    """The part of one engine response that belongs to one sequence.

    Attributes:
        key: stream key; None if the response carries none.
        beams: one list of new ids; with several beams all ids of each beam.
        finish_reason: why the engine ended the sequence; NOT_FINISHED if it did not or did not say.
        last: whether this is the engine's last response, if known.
        log_probs: one per token id; None if the client did not ask for them.
        row: index of the text in its request.
        sequence: index of the sequence in its row; None if the response carries none.
    """

    key: int | None
    beams: Sequence[Sequence[int]]
    finish_reason: FinishReason = FinishReason.NOT_FINISHED
    last: bool = False
    log_probs: Sequence[float] | None = None
    row: int = 0
    sequence: int | None = None


def engine_steps(
    inputs: Mapping[str, npt.NDArray[Any]], key: int | None, last: bool, packed: list[int] | None
) -> list[EngineStep]:
    """The steps of one engine response, one per row.

    Args:
        inputs: of postprocessing: TOKENS_BATCH int [rows, beams, n]; if the engine sends them
            SEQUENCE_LENGTH [rows, beams], LOG_PROBS [rows, beams, n], BATCH_INDEX and
            SEQUENCE_INDEX [rows, 1].
        key: stream key of all rows; None if the response carries none.
        last: whether this is the engine's last response.
        packed: stream key and finish reason of each row, see `stream_key.pack`; None if the engine
            sends none.

    Raises:
        RequestError: a tensor has the wrong shape.
    """
    ids = inputs["TOKENS_BATCH"]
    lengths, log_probs = inputs.get("SEQUENCE_LENGTH"), inputs.get("LOG_PROBS")
    rows = scalars(inputs, "BATCH_INDEX") or range(len(ids))
    sequences = scalars(inputs, "SEQUENCE_INDEX")
    finish = FinishReason.NOT_FINISHED
    steps = []
    for at, padded in enumerate(ids.tolist()):
        row, sequence = rows[at], sequences[at] if sequences else None
        if packed:
            row = 0
            key, finish, sequence = unpack(packed[at])
        counts = [None] * len(padded) if lengths is None else lengths[at].tolist()
        steps.append(
            EngineStep(
                key=key,
                beams=[
                    [i for i in beam[:count] if i >= 0]
                    for beam, count in zip(padded, counts, strict=True)
                ],
                finish_reason=finish,
                last=last,
                log_probs=None if log_probs is None else log_probs[at, 0].tolist(),
                row=row,
                sequence=sequence,
            )
        )
    return steps
