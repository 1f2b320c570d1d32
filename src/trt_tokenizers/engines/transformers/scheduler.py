"""Scheduling and delivery in transformers' continuous batching, and the size of its KV cache.

Imports torch and transformers, so only a running `TransformersEngine` imports this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.model_runner import (
    infer_max_single_request_tokens,
)
from transformers.generation.continuous_batching.requests import RequestStatus
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler
from transformers.generation.continuous_batching.utils import (
    find_head_dim,
    find_num_key_value_heads,
    get_device_and_memory_breakdown,
)

from trt_tokenizers.engines.base import FinishReason
from trt_tokenizers.engines.transformers.sampling import Output, Row


def longest_sequence(manager: Any) -> int:
    """Tokens of the longest sequence that fits into the empty KV cache."""
    return int(infer_max_single_request_tokens(manager.batch_processor.cache))


def cached_tokens(model: Any, max_bytes: int, batch_tokens: int) -> int:
    """Tokens that a KV cache of *max_bytes*, but at most a quarter of the free memory, holds.

    Each cached token also pays for its column of sdpa's mask, which has *batch_tokens* rows.
    """
    config = model.config.get_text_config()
    numbers = (
        2 * config.num_hidden_layers * find_num_key_value_heads(config) * find_head_dim(config)
    )
    _, total, _, used = get_device_and_memory_breakdown()
    memory = min(max_bytes, (total - used) // 4)
    return int(memory // ((numbers + batch_tokens) * model.dtype.itemsize))


class Router(OutputRouter):  # type: ignore[misc]
    """Passes outputs to *deliver* and failures to *fail*, on the generation thread."""

    def __init__(
        self, deliver: Callable[[Output], None], fail: Callable[[str, BaseException], None]
    ) -> None:
        super().__init__()
        self._deliver = deliver
        self._fail = fail

    def deliver_batch(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            self._deliver(output)

    def fail_and_deliver(self, state: Row, error: Exception) -> None:
        state.status = RequestStatus.FAILED
        self._fail(state.request_id, error)


class Scheduler(FIFOScheduler):  # type: ignore[misc]
    """The library's default scheduler; it also delivers cancelled rows and avoids two bugs of 5.23.

    Attributes:
        deliver: receives the last output of each cancelled row; set by the engine.
    """

    deliver: Callable[[Output], None]
    _early: frozenset[str] = frozenset()  # cancelled one round before their request arrived
    _requests_to_cancel: Any

    def clear_cancelled_requests(self) -> list[Row]:
        # The library reads new requests before cancellations, so a cancellation may be read one
        # round before its request.
        known = self.active_requests.keys() | self.waiting_requests.keys()
        early = frozenset(self._requests_to_cancel - known)
        # Sorted: all ranks need the same order, and a set of strings has none.
        self._requests_to_cancel = sorted(self._requests_to_cancel | self._early)
        self._early = early
        cancelled: list[Row] = super().clear_cancelled_requests()
        if cancelled:
            # After an eviction the library admits requests only once a running one finishes. If
            # that one is cancelled instead, they would wait forever.
            self.block_new_requests = False
        for row in cancelled:
            row.job.finish_reason = FinishReason.CANCELLED
            self.deliver(row.to_generation_output())
        return cancelled


SCHEDULER = "trt_tokenizers"  # its name in the manager's configuration
SCHEDULER_MAPPING[SCHEDULER] = Scheduler
