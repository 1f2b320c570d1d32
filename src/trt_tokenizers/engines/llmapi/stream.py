"""The state of a request in the engine `llmapi`: TensorRT-LLM's outputs become chunks."""

from __future__ import annotations

from typing import Any

from trt_tokenizers.engines.base import Chunk, Emit, FinishReason, GenerationRequest, StopWords
from trt_tokenizers.engines.llmapi import compat

_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "cancelled": FinishReason.CANCELLED,
    "timeout": FinishReason.CANCELLED,
}
#: Output of the ensemble -> TensorRT-LLM's field; times are timedeltas of a monotonic clock.
_PERF = {
    "kv_cache_alloc_new_blocks": ("kv_cache_metrics", "num_new_allocated_blocks"),
    "kv_cache_reused_blocks": ("kv_cache_metrics", "num_reused_blocks"),
    "kv_cache_alloc_total_blocks": ("kv_cache_metrics", "num_total_allocated_blocks"),
    "arrival_time_ns": ("timing_metrics", "arrival_time"),
    "first_scheduled_time_ns": ("timing_metrics", "first_scheduled_time"),
    "first_token_time_ns": ("timing_metrics", "first_token_time"),
    "last_token_time_ns": ("timing_metrics", "last_token_time"),
    "acceptance_rate": ("speculative_decoding", "acceptance_rate"),
    "total_accepted_draft_tokens": ("speculative_decoding", "total_accepted_draft_tokens"),
    "total_draft_tokens": ("speculative_decoding", "total_draft_tokens"),
}


class Stream:
    """The state of one request. Used only in the event loop."""

    def __init__(self, request: GenerationRequest, emit: Emit) -> None:
        self.request = request
        self.emit = emit
        self.result: Any = None  # of generate_async
        self.ended = False  # whether the last chunk was emitted
        self._sent = 0
        self._stop_words = StopWords(request.stop_words, request.min_tokens)

    def next_chunk(self, step: Any) -> Chunk:
        """The new tokens of *step*, a RequestOutput, which holds all tokens so far."""
        output = step.outputs[0]
        ids, start = output.token_ids, self._sent
        reason = FinishReason.NOT_FINISHED
        if step.finished:
            reason = _REASONS.get(output.finish_reason, FinishReason.STOP)
        end = len(ids)
        for count in range(start + 1, end + 1):
            if self._stop_words.add(ids[count - 1]):
                end, reason = count, FinishReason.STOP
                break
        self._sent = end
        new = tuple(ids[start:end])
        probs: tuple[float, ...] = ()
        if self.request.return_log_probs and new:
            probs = compat.log_probs(output.logprobs[start:end], new)
        perf = None
        if reason and self.request.return_perf_metrics:
            perf = _perf(getattr(output, "request_perf_metrics", None))
        return Chunk(token_ids=new, log_probs=probs, finish_reason=reason, perf=perf)


def _perf(metrics: Any) -> dict[str, float]:
    """The metrics that this version of TensorRT-LLM provides."""
    found: dict[str, float] = {}
    for name, (group, field) in _PERF.items():
        value = getattr(getattr(metrics, group, None), field, None)
        if value is not None:
            if name.endswith("_ns"):
                value = int(value.total_seconds() * 1e9)
            found[name] = value
    return found
