"""TensorRT-LLM's outputs as chunks. An output holds all tokens so far."""

from __future__ import annotations

from typing import Any

from trt_tokenizers.engines.base import FinishReason
from trt_tokenizers.engines.event_loop import Stream
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


class LlmApiStream(Stream):
    """The state of one request."""

    def new_ids(self, output: Any) -> tuple[int, ...]:
        return tuple(output.token_ids[self.sent :])

    def reason(self, output: Any) -> FinishReason:
        return _REASONS.get(output.finish_reason, FinishReason.STOP)

    def log_probs(self, output: Any, ids: tuple[int, ...]) -> tuple[float, ...]:
        return compat.log_probs(output.logprobs[self.sent :][: len(ids)], ids)

    def perf(self, step: Any) -> dict[str, float]:
        """The metrics that this version of TensorRT-LLM provides."""
        metrics = getattr(step.outputs[0], "request_perf_metrics", None)
        found: dict[str, float] = {}
        for name, (group, field) in _PERF.items():
            value = getattr(getattr(metrics, group, None), field, None)
            if value is not None:
                if name.endswith("_ns"):
                    value = int(value.total_seconds() * 1e9)
                found[name] = value
        return found
