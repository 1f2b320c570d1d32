"""The arrays that our models send, in the shapes and types of NVIDIA's models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.processing.text_sequence import TextStep


def output_arrays(
    steps: Sequence[Sequence[TextStep]], *, log_probs: bool
) -> dict[str, npt.NDArray[Any]]:
    """Arrays of one response.

    Each tensor costs time, so finish reasons and counts go out with the end only.

    Args:
        steps: [rows][beams].
        log_probs: whether to send log-probabilities.

    Returns:
        OUTPUT and OUT_FINISH_REASON are BYTES [rows * beams], row by row: NVIDIA's clients decode
        the first element. NUM_INPUT_TOKENS int32 [rows, 1], NUM_OUTPUT_TOKENS int32 [rows, beams],
        OUT_LOG_PROBS float32 [rows, 1, n] padded with 0, CUM_LOG_PROBS float32 [rows, 1]; only in
        responses that need them: ADDED_TOKENS int32 [rows, n] padded with -1, PROMPT_END BYTES
        [rows, 1], OUT_TOKENS BYTES [rows, 1, n], OUT_IDS int32 [rows, beams, n] padded with -1.
    """
    texts = [step.text.encode() for row in steps for step in row]
    arrays: dict[str, npt.NDArray[Any]] = {"OUTPUT": np.array(texts, dtype=np.object_)}
    if any(row[0].finish_reason for row in steps):
        reasons = [step.finish_reason.text.encode() for row in steps for step in row]
        arrays["OUT_FINISH_REASON"] = np.array(reasons, dtype=np.object_)
        arrays["NUM_INPUT_TOKENS"] = np.array([[r[0].num_input_tokens] for r in steps], np.int32)
        outputs = [[step.num_output_tokens for step in row] for row in steps]
        arrays["NUM_OUTPUT_TOKENS"] = np.array(outputs, dtype=np.int32)
    if log_probs:
        arrays["OUT_LOG_PROBS"] = _padded([[row[0].log_probs] for row in steps], 0, np.float32)
        arrays["CUM_LOG_PROBS"] = np.array([[row[0].cum_log_prob] for row in steps], np.float32)
    if any(row[0].tokens for row in steps):
        arrays["OUT_TOKENS"] = _padded([[row[0].tokens] for row in steps], b"", np.object_)
    if any(row[0].added for row in steps):
        arrays["ADDED_TOKENS"] = _padded([[row[0].added] for row in steps], -1, np.int32)[:, 0]
    if any(row[0].prompt_end is not None for row in steps):
        ends = [[(row[0].prompt_end or "").encode()] for row in steps]
        arrays["PROMPT_END"] = np.array(ends, dtype=np.object_)
    if any(row[0].return_token_ids for row in steps):
        arrays["OUT_IDS"] = _padded(
            [[step.token_ids for step in row] for row in steps], -1, np.int32
        )
    return arrays


def _padded(rows: list[list[Sequence[Any]]], fill: Any, dtype: Any) -> npt.NDArray[Any]:
    width = max(1, *(len(values) for row in rows for values in row))
    padded = [[[*values, *[fill] * (width - len(values))] for values in row] for row in rows]
    return np.array(padded, dtype=dtype)


def as_declared(
    arrays: Mapping[str, npt.NDArray[Any]], types: Mapping[str, np.dtype[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays that config.pbtxt declares as outputs, with the declared *types*.

    TensorRT-LLM 0.5 has unsigned lengths and ids: there -1, which means none, is omitted.
    """
    declared = {}
    for name, array in arrays.items():
        dtype = types.get(name)
        if dtype is not None and not (dtype.kind == "u" and array.min() < 0):
            declared[name] = array.astype(dtype, copy=False)
    return declared
