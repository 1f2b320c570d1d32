"""The engine model's tensors, named as TensorRT-LLM names them, <-> the seam's dataclasses."""

from __future__ import annotations

import secrets
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.engines.base import Chunk, FinishReason, GenerationRequest
from trt_tokenizers.errors import RequestError
from trt_tokenizers.streams.stream_key import KEY_BITS, MAX_SEQUENCES, pack, sequence_key
from trt_tokenizers.streams.word_arrays import from_array

Array = npt.NDArray[Any]

#: Engine tensor -> (the client's name in the ensemble, field of GenerationRequest).
_SAMPLING = {
    "temperature": ("temperature", "temperature"),
    "runtime_top_k": ("top_k", "top_k"),
    "runtime_top_p": ("top_p", "top_p"),
    "repetition_penalty": ("repetition_penalty", "repetition_penalty"),
    "presence_penalty": ("presence_penalty", "presence_penalty"),
    "frequency_penalty": ("frequency_penalty", "frequency_penalty"),
    # The older and the newer name of one thing.
    "min_length": ("min_length", "min_tokens"),
    "min_tokens": ("min_tokens", "min_tokens"),
    "random_seed": ("random_seed", "seed"),
    "seed": ("seed", "seed"),
    "return_log_probs": ("return_log_probs", "return_log_probs"),
    "return_perf_metrics": ("return_perf_metrics", "return_perf_metrics"),
    "lora_name": ("lora_name", "lora"),
    "streaming": ("stream", "stream"),
}
_GUIDE = ("guided_decoding_guide_type", "guided_decoding_guide")
#: Inputs that are accepted with the one value that asks for nothing.
_ONLY = {
    "beam_width": ("beam_width", 1),
    "return_context_logits": ("return_context_logits", False),
    "return_generation_logits": ("return_generation_logits", False),
}
#: For TensorRT-LLM these values mean "not set", and old clients send them as a matter of course.
_NOT_SET = {
    "runtime_top_k": 0, "runtime_top_p": 0.0, "return_perf_metrics": False, "lora_name": "",
}  # fmt: skip

#: Every input that is read here; the skeleton declares the same.
INPUTS = (
    "input_ids",
    "input_lengths",
    "request_output_len",
    "end_id",
    "pad_id",
    "stop_words_list",
    "bad_words_list",
    "embedding_bias",
    "len_penalty",
    "num_return_sequences",
    "stream_key",
    *_SAMPLING,
    *_GUIDE,
    *_ONLY,
)


def parse_requests(arrays: Mapping[str, Array]) -> list[GenerationRequest]:
    """One `GenerationRequest` per sequence, those of a row of the batch side by side.

    Args:
        arrays: input name -> array; the first dimension is the batch.

    Raises:
        RequestError: an input is missing, or holds a value that cannot be honoured.
    """
    for name in ("input_ids", "request_output_len"):
        if name not in arrays:
            raise RequestError(f"the input {name!r} is missing; send it")
    rows = [
        sequence
        for row in range(arrays["input_ids"].shape[0])
        for sequence in _sequences(_parse_row(arrays, row), arrays)
    ]
    if len({(row.stream, row.return_log_probs) for row in rows}) > 1:
        raise RequestError(
            "stream and return_log_probs differ between the texts of one request; "
            "send them in requests of their own"
        )
    return rows


def _sequences(row: GenerationRequest, arrays: Mapping[str, Array]) -> list[GenerationRequest]:
    """As many as the client wants of *row*, each as if asked for by itself with the next seed."""
    count = _scalar(arrays, "num_return_sequences", row.row, 1)
    if not 1 <= count <= MAX_SEQUENCES:
        raise RequestError(f"num_return_sequences is {count}; it must be 1 to {MAX_SEQUENCES}")
    if count == 1:
        return [row]
    if not row.stream:
        raise RequestError(
            f"num_return_sequences is {count}, and an answer that does not stream holds one; send "
            "stream true, or the text several times"
        )
    return [
        replace(
            row,
            key=sequence_key(row.key, sequence),
            seed=None if row.seed is None else (row.seed + sequence) % 2**64,
            sequence=sequence,
        )
        for sequence in range(count)
    ]


def _parse_row(arrays: Mapping[str, Array], row: int) -> GenerationRequest:
    for name, (client_name, only) in _ONLY.items():
        if name in arrays and arrays[name][row].item() != only:
            raise RequestError(
                f"{client_name} is {arrays[name][row].item()}; this engine serves {only} only, "
                "leave it out"
            )
    values, given = _asked(arrays, row)
    ids = arrays["input_ids"][row]
    if "input_lengths" in arrays:
        length = arrays["input_lengths"][row].item()
        if not 0 < length <= len(ids):
            raise RequestError(f"input_lengths is {length}; it must be 1 to {len(ids)} here")
        ids = ids[:length]
    key = _scalar(arrays, "stream_key", row, None)
    if key is None:  # only preprocessing sends keys; a client of the engine needs one all the same
        key = secrets.randbits(KEY_BITS)
    elif not 0 <= key < 1 << KEY_BITS:
        raise RequestError(f"stream_key is {key}; it must be below 2**{KEY_BITS}, leave it out")
    end_id = _scalar(arrays, "end_id", row, -1)
    return GenerationRequest(
        key=key,
        prompt_ids=tuple(ids.tolist()),
        max_tokens=arrays["request_output_len"][row].item(),
        end_ids=frozenset() if end_id < 0 else frozenset((end_id,)),
        pad_id=_scalar(arrays, "pad_id", row, None),
        stop_words=_words(arrays, "stop_words_list", row),
        bad_words=_words(arrays, "bad_words_list", row),
        given=given,
        row=row,
        **values,
    )


def _asked(arrays: Mapping[str, Array], row: int) -> tuple[dict[str, Any], frozenset[str]]:
    """Fields of `GenerationRequest` that the client gave, and the client's names for them."""
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for name, (client_name, field) in _SAMPLING.items():
        if name not in arrays:
            continue
        value = _scalar(arrays, name, row, None)
        if name in _NOT_SET and value == _NOT_SET[name]:
            continue
        if field in values and values[field] != value:
            raise RequestError(
                f"{given[field]} is {values[field]} and {client_name} is {value}, but both mean "
                "the same; send one of them"
            )
        values[field], given[field] = value, client_name
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
    if name not in arrays:
        return default
    value = arrays[name][row].item()
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RequestError(f"{name} is not valid UTF-8; send it encoded so") from None


def _words(arrays: Mapping[str, Array], name: str, row: int) -> tuple[tuple[int, ...], ...]:
    return from_array(arrays[name][row]) if name in arrays else ()


#: Outputs that a request may ask for with return_perf_metrics, of those that the engine knows.
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
#: Outputs in the order of `output_arrays`; a response carries those that its request asked for.
OUTPUTS = (
    "output_ids",
    "sequence_length",
    "stream_key",
    "batch_index",
    "sequence_index",
    "output_log_probs",
    "cum_log_probs",
    *PERF,
)


def output_arrays(
    chunks: Sequence[Chunk],
    requests: Sequence[GenerationRequest],
    wanted: Container[str] = OUTPUTS,
) -> dict[str, Array]:
    """Arrays of one response that carries a chunk for each of some sequences: its rows.

    No other than the wanted ones: every tensor costs on its way through Triton, and Triton 24.10's
    response sender throws those that nobody asked for away without holding the GIL, of which a
    Python 3.12 process dies (SIGSEGV).

    Args:
        chunks: one per row, without errors.
        requests: what they are of.
        wanted: names of `OUTPUTS`.

    Returns:
        output_ids int32 [rows, 1, n], padded with -1, n at least 1; sequence_length int32
        [rows, 1]; stream_key int64 [rows, 1], see `streams.pack`; batch_index and sequence_index
        int32 [rows, 1]; output_log_probs float32 [rows, 1, n]; cum_log_probs float32 [rows, 1],
        the sum over this response; those of `PERF` [rows, 1] that all chunks have.
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
    for name, dtype in PERF.items():
        if name in wanted and all(chunk.perf and name in chunk.perf for chunk in chunks):
            figures = [chunk.perf[name] for chunk in chunks if chunk.perf]
            arrays[name] = _column(figures, dtype)
    return arrays


def _column(values: Sequence[float], dtype: Any) -> Array:
    return np.array(values, dtype=dtype).reshape(-1, 1)


def merge(chunks: Sequence[Chunk]) -> Chunk:
    """Several chunks of one sequence, in order, as one."""
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
