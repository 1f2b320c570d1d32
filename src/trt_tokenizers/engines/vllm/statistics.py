"""vLLM's statistics as gauges of this package's metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Statistics:
    """The newest statistics of vLLM's scheduler.

    Attributes:
        gauges: name of the gauge -> its value.
    """

    def __init__(self) -> None:
        self._values = {"engine_requests_waiting": 0.0, "engine_kv_cache_usage": 0.0}
        self.gauges: Mapping[str, Callable[[], float]] = {
            name: lambda name=name: self._values[name]  # type: ignore[misc]
            for name in self._values
        }

    def logger(self, vllm_config: Any, engine_index: int = 0) -> _Logger:
        """A factory of vLLM's stat loggers."""
        return _Logger(self._values)


class _Logger:
    """Has the methods of vLLM's StatLoggerBase, without importing vLLM."""

    def __init__(self, values: dict[str, float]) -> None:
        self._values = values

    def record(self, scheduler_stats: Any, *arguments: Any, **more: Any) -> None:
        """Called by vLLM for each step."""
        if scheduler_stats is not None:
            self._values["engine_requests_waiting"] = float(scheduler_stats.num_waiting_reqs)
            self._values["engine_kv_cache_usage"] = float(scheduler_stats.kv_cache_usage)

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Ignore all other notifications, whatever this version of vLLM has."""
        return lambda *arguments, **more: None
