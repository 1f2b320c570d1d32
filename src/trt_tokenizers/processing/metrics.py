"""Metrics on Triton's own port, in Prometheus form.

Names follow those that users of vLLM's Triton backend know, with another prefix. A call into
Triton takes tens of microseconds, so counts gather here and a thread hands them over.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

logger = logging.getLogger(__name__)

PREFIX = "trt_tokenizers:"
_EVERY_S = 0.5
_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
            10.0, 20.0, 40.0, 80.0)  # fmt: skip

COUNTERS = {
    "requests_total": "Requests that preprocessing got.",
    "request_errors_total": "Requests refused or failed, by model and kind.",
    "prompt_tokens_total": "Tokens of prompts.",
    "generation_tokens_total": "Tokens of answers.",
    "request_success_total": "Answers that ended, by finished_reason.",
    "streams_shed_total": "Streams dropped because there were too many.",
}
GAUGES = {
    "num_requests_running": "Answers that postprocessing is in the middle of.",
    "engine_sequences_running": "Sequences that the engine has not ended.",
    "engine_requests_waiting": "Sequences that wait for room in the engine's batch (vllm).",
    "engine_kv_cache_usage": "Used part of the engine's KV cache, 0 to 1 (vllm).",
}
HISTOGRAMS = {
    "time_to_first_token_seconds": "From preprocessing to the first response.",
    "time_per_output_token_seconds": "Mean of an answer's tokens after its first response.",
    "e2e_request_latency_seconds": "From preprocessing to the end of the answer.",
}

ENGINE_GAUGES = tuple(name for name in GAUGES if name.startswith("engine_"))

#: What postprocessing measures.
POSTPROCESSING = (
    "request_errors_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "request_success_total",
    "streams_shed_total",
    "num_requests_running",
    *HISTOGRAMS,
)

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """One per model process. Methods may be called from any thread; they never wait."""

    def __init__(self, family: Any, names: Sequence[str], labels: dict[str, str]) -> None:
        """
        Args:
            family: Triton's class MetricFamily, or one like it.
            names: of the metrics that this process has.
            labels: of every metric here.
        """
        self._family = family
        self._labels = labels
        self._families = {name: self._make_family(name) for name in names}
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._counts: defaultdict[tuple[str, Labels], float] = defaultdict(float)
        self._observed: list[tuple[str, float]] = []
        self._gauges: dict[str, Callable[[], float]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        """Add *value* to a counter."""
        with self._lock:
            self._counts[name, tuple(labels.items())] += value

    def observe(self, name: str, seconds: float) -> None:
        """Put a value into a histogram."""
        with self._lock:
            self._observed.append((name, seconds))

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Let *read* say a gauge's value from now on."""
        self._gauges[name] = read

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=2.0)
        # Triton's objects must not outlive the model's finalize(): the stub would crash.
        self._gauges.clear()
        self._metrics.clear()
        self._families.clear()

    def _run(self) -> None:
        while not self._stopped.wait(_EVERY_S):
            try:
                self._hand_over()
            except Exception:  # metrics must not end the server
                logger.exception("metrics could not be handed to Triton")

    def _hand_over(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, defaultdict(float)
            observed, self._observed = self._observed, []
        for (name, labels), value in counts.items():
            self._metric(name, labels).increment(value)
        for name, seconds in observed:
            metric = self._metric(name)
            if metric is not None:
                metric.observe(seconds)
        for name, read in self._gauges.items():
            self._metric(name).set(read())

    def _make_family(self, name: str) -> Any:
        if name in HISTOGRAMS:
            kind = getattr(self._family, "HISTOGRAM", None)
            if kind is None:
                return None  # this Triton's Python models have no histograms
        else:
            kind = self._family.GAUGE if name in GAUGES else self._family.COUNTER
        text = {**COUNTERS, **GAUGES, **HISTOGRAMS}[name]
        return self._family(name=PREFIX + name, description=text, kind=kind)

    def _metric(self, name: str, labels: Labels = ()) -> Any:
        metric = self._metrics.get((name, labels))
        if metric is None and (family := self._families[name]) is not None:
            more = {"buckets": list(_SECONDS)} if name in HISTOGRAMS else {}
            metric = family.Metric(labels={**self._labels, **dict(labels)}, **more)
            self._metrics[name, labels] = metric
        return metric
