"""vLLM's outputs as chunks. An output holds the tokens since the last one."""

from __future__ import annotations

from typing import Any

from trt_tokenizers.engines.base import FinishReason
from trt_tokenizers.engines.event_loop import Stream
from trt_tokenizers.errors import EngineError

_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "abort": FinishReason.CANCELLED,
    "repetition": FinishReason.STOP,
}
#: Output of the ensemble -> field of vLLM's RequestStateStats, in seconds of a monotonic clock.
_PERF = {
    "first_scheduled_time_ns": "scheduled_ts",
    "first_token_time_ns": "first_token_ts",
    "last_token_time_ns": "last_token_ts",
    "arrival_time_ns": "queued_ts",
}


class VllmStream(Stream):
    """The state of one request."""

    def new_ids(self, output: Any) -> tuple[int, ...]:
        return tuple(output.token_ids)

    def reason(self, output: Any) -> FinishReason:
        if output.finish_reason not in _REASONS:
            raise EngineError(f"vLLM ended the answer: {output.finish_reason}")
        return _REASONS[output.finish_reason]

    def log_probs(self, output: Any, ids: tuple[int, ...]) -> tuple[float, ...]:
        return tuple(output.logprobs[at][i].logprob for at, i in enumerate(ids))

    def perf(self, step: Any) -> dict[str, float] | None:
        if step.metrics is None:
            return None
        return {name: int(getattr(step.metrics, field) * 1e9) for name, field in _PERF.items()}
