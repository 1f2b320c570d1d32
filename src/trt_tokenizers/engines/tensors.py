"""Tensors of the engine model, named as in TensorRT-LLM <-> dataclasses of the engine interface."""

from __future__ import annotations

import secrets
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.engines.base import PARAMETERS, Chunk, FinishReason, GenerationRequest
from trt_tokenizers.errors import RequestError
from trt_tokenizers.streams.ensemble_inputs import BY_NAME, INPUTS
from trt_tokenizers.streams.stream_key import KEY_BITS, pack, sequence_key
from trt_tokenizers.streams.word_arrays import from_array

Array = npt.NDArray[Any]

_REFUSED = {each.to_engine: each.name for each in INPUTS if each.to_engine and not each.engines}
_ONLY = [each for each in INPUTS if each.only is not None]
_SEQUENCES = BY_NAME["num_return_sequences"]
_GUIDE = ("guided_decoding_guide_type", "guided_decoding_guide")


def parse_requests(arrays: Mapping[str, Array]) -> list[GenerationRequest]:
    """Parse the tensors of one request: one `GenerationRequest` per sequence, row by row.

    Args:
        arrays: input name -> array; the first dimension is the batch.

    Raises:
        RequestError: an input is missing, or the engine cannot honour its value.
    """
    for name in ("input_ids", "request_output_len"):
        if name not in arrays:
            raise RequestError(f"the input {name!r} is missing; send it")
    for name in _REFUSED.keys() & arrays.keys():
        raise RequestError(f"{_REFUSED[name]} is only for TensorRT-LLM's C++ backend; leave it out")
    rows = [
        sequence
        for row in range(arrays["input_ids"].shape[0])
        for sequence in _sequences(_parse_row(arrays, row), arrays)
    ]
    if len({(row.stream, row.return_log_probs) for row in rows}) > 1:
        raise RequestError(
            "stream and return_log_probs differ between the texts of one request; "
            "send these texts in separate requests"
        )
    return rows


def _sequences(request: GenerationRequest, arrays: Mapping[str, Array]) -> list[GenerationRequest]:
    """The sequences of a row: num_return_sequences copies of *request* with successive seeds."""
    count = _scalar(arrays, _SEQUENCES.to_engine, request.row, 1)
    _SEQUENCES.check(count)
    if count == 1:
        return [request]
    if not request.stream:
        raise RequestError(
            f"num_return_sequences is {count}, but a response without stream holds one answer; "
            "send stream true, or the text several times"
        )
    return [
        replace(
            request,
            key=sequence_key(request.key, sequence),
            seed=None if request.seed is None else (request.seed + sequence) % 2**64,
            sequence=sequence,
        )
        for sequence in range(count)
    ]


def _parse_row(arrays: Mapping[str, Array], row: int) -> GenerationRequest:
    for each in _ONLY:
        if (
            each.to_engine in arrays
            and (value := _scalar(arrays, each.to_engine, row, None)) != each.only
        ):
            raise RequestError(
                f"{each.name} is {value}; this engine serves {each.only} only, leave it out"
            )
    values, given = _parameters(arrays, row)
    ids = arrays["input_ids"][row]
    length = _scalar(arrays, "input_lengths", row, len(ids))
    if not 0 < length <= len(ids):
        raise RequestError(f"input_lengths is {length}; it must be 1 to {len(ids)} here")
    key = _scalar(arrays, "stream_key", row, None)
    if key is None:  # direct clients of the engine send no key, and the engine needs one
        key = secrets.randbits(KEY_BITS)
    elif not 0 <= key < 1 << KEY_BITS:
        raise RequestError(f"stream_key is {key}; it must be below 2**{KEY_BITS}, leave it out")
    end_id = _scalar(arrays, "end_id", row, -1)
    return GenerationRequest(
        key=key,
        prompt_ids=tuple(ids[:length].tolist()),
        max_tokens=_scalar(arrays, "request_output_len", row, None),
        end_ids=frozenset() if end_id < 0 else frozenset((end_id,)),
        pad_id=_scalar(arrays, "pad_id", row, None),
        stop_words=_words(arrays, "stop_words_list", row),
        bad_words=_words(arrays, "bad_words_list", row),
        given=given,
        row=row,
        **values,
    )


def _parameters(arrays: Mapping[str, Array], row: int) -> tuple[dict[str, Any], frozenset[str]]:
    """Fields of `GenerationRequest` that the client sent, and the client's names for them."""
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for each in PARAMETERS:
        if each.to_engine not in arrays:
            continue
        value = _scalar(arrays, each.to_engine, row, None)
        if value == each.not_set:
            continue
        field = each.target
        if field in values and values[field] != value:
            raise RequestError(
                f"{given[field]} is {values[field]} and {each.name} is {value}, but both mean "
                "the same; send one of them"
            )
        values[field], given[field] = value, each.name
    kind, guide = (_scalar(arrays, name, row, "") for name in _GUIDE)
    if kind or guide:
        if not kind:
            raise RequestError(f"{_GUIDE[0]} is missing; send it with {_GUIDE[1]}")
        values["guide"], given["guide"] = (kind, guide), _GUIDE[0]
    if "embedding_bias" in arrays:
        values["embedding_bias"] = arrays["embedding_bias"][row]
        given["embedding_bias"] = "embedding_bias_words"
    return values, frozenset(given.values())


def _scalar(arrays: Mapping[str, Array], name: str, row: int, default: Any) -> Any:
    """The value of *row* in the input *name*, decoded; *default* if it was not sent."""
    if name not in arrays:
        return default
    value = arrays[name][row].item()
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RequestError(f"{name} is not valid UTF-8; send UTF-8") from None


def _words(arrays: Mapping[str, Array], name: str, row: int) -> tuple[tuple[int, ...], ...]:
    return from_array(arrays[name][row]) if name in arrays else ()


#: Inputs of the request that stops another one with the same id, for TensorRT-LLM's C++ backend.
STOP_REQUEST = {
    "input_ids": np.zeros((1, 1), dtype=np.int32),
    "input_lengths": np.ones((1, 1), dtype=np.int32),
    "request_output_len": np.ones((1, 1), dtype=np.int32),
    "stop": np.ones((1, 1), dtype=np.bool_),
}

#: Outputs for return_perf_metrics; an engine fills those that it measures.
PERF = {
    "kv_cache_alloc_new_blocks": np.int32,
    "kv_cache_reused_blocks": np.int32,
    "kv_cache_alloc_total_blocks": np.int32,
    "arrival_time_ns": np.int64,
    "first_scheduled_time_ns": np.int64,
    "first_token_time_ns": np.int64,
    "last_token_time_ns": np.int64,
    "acceptance_rate": np.float32,
    "total_accepted_draft_tokens": np.int32,
    "total_draft_tokens": np.int32,
}
#: Every output; a response carries those that its request asks for.
OUTPUTS = (
    "output_ids", "sequence_length", "stream_key", "batch_index", "sequence_index",
    "output_log_probs", "cum_log_probs", *PERF,
)  # fmt: skip


def output_arrays(
    chunks: Sequence[Chunk],
    requests: Sequence[GenerationRequest],
    wanted: Container[str] = OUTPUTS,
) -> dict[str, Array]:
    """Arrays of one response that carries a chunk of each of some sequences, one per row.

    Only the wanted outputs: every tensor costs time in Triton. Besides, the response sender of
    Triton 24.10 drops unrequested tensors without holding the GIL, which kills a Python 3.12
    process (SIGSEGV).

    Args:
        chunks: one per row, without errors.
        requests: the request of each chunk.
        wanted: names of `OUTPUTS`.

    Returns:
        output_ids int32 [rows, 1, n], padded with -1, n at least 1; sequence_length int32
        [rows, 1]; stream_key int64 [rows, 1], see `stream_key.pack`; batch_index and
        sequence_index int32 [rows, 1]; output_log_probs float32 [rows, 1, n]; cum_log_probs
        float32 [rows, 1], the sum over this response; outputs of `PERF` [rows, 1] that all chunks
        have.
    """
    lengths = [len(chunk.token_ids) for chunk in chunks]
    shape = (len(chunks), 1, max(1, *lengths))
    ids = np.full(shape, -1, dtype=np.int32)
    for at, chunk in enumerate(chunks):
        ids[at, 0, : lengths[at]] = chunk.token_ids
    arrays: dict[str, Array] = {}
    if "output_ids" in wanted:
        arrays["output_ids"] = ids
    if "stream_key" in wanted:
        packed = [pack(r.key, c.finish_reason) for r, c in zip(requests, chunks, strict=True)]
        arrays["stream_key"] = _column(packed, np.int64)
    if "sequence_length" in wanted:
        arrays["sequence_length"] = _column(lengths, np.int32)
    if "batch_index" in wanted:
        arrays["batch_index"] = _column([r.row for r in requests], np.int32)
    if "sequence_index" in wanted:
        arrays["sequence_index"] = _column([r.sequence or 0 for r in requests], np.int32)
    if "output_log_probs" in wanted or "cum_log_probs" in wanted:
        values = np.zeros(shape, dtype=np.float32)
        for at, chunk in enumerate(chunks):
            values[at, 0, : len(chunk.log_probs)] = chunk.log_probs
        if "output_log_probs" in wanted:
            arrays["output_log_probs"] = values
        if "cum_log_probs" in wanted:
            arrays["cum_log_probs"] = values.sum(axis=2)
    figures = [chunk.perf for chunk in chunks if chunk.perf]
    if len(figures) == len(chunks):
        arrays |= {
            name: _column([its[name] for its in figures], dtype)
            for name, dtype in PERF.items()
            if name in wanted and all(name in its for its in figures)
        }
    return arrays


def _column(values: Sequence[float], dtype: Any) -> Array:
    return np.array(values, dtype=dtype).reshape(-1, 1)


def merge(chunks: Sequence[Chunk]) -> Chunk:
    """Join successive chunks of one sequence."""
    if len(chunks) == 1:
        return chunks[0]
    return Chunk(
        token_ids=tuple(i for chunk in chunks for i in chunk.token_ids),
        log_probs=tuple(p for chunk in chunks for p in chunk.log_probs),
        finish_reason=chunks[-1].finish_reason if chunks else FinishReason.NOT_FINISHED,
        error=chunks[-1].error,
        refused=chunks[-1].refused,
        perf=chunks[-1].perf,
    )
