"""The state of a request in the engine `vllm`: vLLM's outputs become chunks."""

from __future__ import annotations

import asyncio
from typing import Any

from trt_tokenizers.engines.base import Chunk, Emit, FinishReason, GenerationRequest, StopWords
from trt_tokenizers.engines.vllm.sampling import split_stop_words
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


class Stream:
    """The state of one request. Used only in the event loop.

    Attributes:
        task: generates the answer; None before the start.
        ended: whether the last chunk was emitted.
    """

    def __init__(self, request: GenerationRequest, emit: Emit) -> None:
        self.request = request
        self.emit = emit
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        _, words = split_stop_words(request)
        self._stop_words = StopWords(words, request.min_tokens) if words else None

    def next_chunk(self, step: Any) -> Chunk:
        """The new tokens of *step*, a RequestOutput with the tokens since the last one.

        Raises:
            EngineError: vLLM failed this request.
        """
        output = step.outputs[0]
        ids, reason = tuple(output.token_ids), FinishReason.NOT_FINISHED
        if step.finished:
            if output.finish_reason not in _REASONS:
                raise EngineError(f"vLLM ended the answer: {output.finish_reason}")
            reason = _REASONS[output.finish_reason]
        if self._stop_words is not None:
            for count, token in enumerate(ids, 1):
                if self._stop_words.add(token):
                    ids, reason = ids[:count], FinishReason.STOP
                    break
        probs: tuple[float, ...] = ()
        if self.request.return_log_probs:
            probs = tuple(output.logprobs[at][i].logprob for at, i in enumerate(ids))
        perf = None
        if reason and self.request.return_perf_metrics and step.metrics is not None:
            perf = {n: int(getattr(step.metrics, field) * 1e9) for n, field in _PERF.items()}
        return Chunk(token_ids=ids, log_probs=probs, finish_reason=reason, perf=perf)
