"""vLLM's statistics as gauges of this package's metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Statistics:
    """The newest statistics of vLLM's scheduler. Has the methods of vLLM's StatLoggerBase.

    Attributes:
        gauges: name of the gauge -> a function that returns its value.
    """

    def __init__(self) -> None:
        self._waiting = self._usage = 0.0
        self.gauges: dict[str, Callable[[], float]] = {
            "engine_requests_waiting": lambda: self._waiting,
            "engine_kv_cache_usage": lambda: self._usage,
        }

    def record(self, scheduler_stats: Any, *arguments: Any, **more: Any) -> None:
        """Called by vLLM for each step."""
        if scheduler_stats is not None:
            self._waiting = float(scheduler_stats.num_waiting_reqs)
            self._usage = float(scheduler_stats.kv_cache_usage)

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Ignore all other notifications, whatever this version of vLLM has."""
        return lambda *arguments, **more: None
