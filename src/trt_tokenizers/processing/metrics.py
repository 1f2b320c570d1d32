"""Metrics on Triton's own port, in Prometheus form.

The names follow those of vLLM's Triton backend, with another prefix. A call into Triton takes tens
of microseconds, so a thread collects the counts and hands them over.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

logger = logging.getLogger(__name__)

PREFIX = "trt_tokenizers:"
_INTERVAL_S = 0.5
_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
            10.0, 20.0, 40.0, 80.0)  # fmt: skip

COUNTERS = {
    "requests_total": "Requests received by preprocessing.",
    "request_errors_total": "Requests refused or failed, by model and kind.",
    "prompt_tokens_total": "Tokens of prompts.",
    "generation_tokens_total": "Tokens of answers.",
    "request_success_total": "Answers that ended, by finished_reason.",
    "streams_shed_total": "Streams dropped because there were too many.",
}
GAUGES = {
    "num_requests_running": "Answers that postprocessing has begun and not ended.",
    "engine_sequences_running": "Sequences that the engine has not ended.",
    "engine_requests_waiting": "Sequences that wait for room in the engine's batch (vllm).",
    "engine_kv_cache_usage": "Used part of the engine's KV cache, 0 to 1 (vllm).",
    "nv_trt_llm_request_metrics": "Sequences of the engine, by request_type.",
    "nv_trt_llm_kv_cache_block_metrics": "The engine's KV cache, by kv_cache_block_type (vllm).",
}
HISTOGRAMS = {
    "time_to_first_token_seconds": "From preprocessing to the first response.",
    "time_per_output_token_seconds": "Mean of an answer's tokens after its first response.",
    "e2e_request_latency_seconds": "From preprocessing to the end of the answer.",
}

#: TensorRT-LLM's own names, which have no prefix of ours.
_FOREIGN = "nv_"
ENGINE_GAUGES = tuple(name for name in GAUGES if name.startswith(("engine_", _FOREIGN)))

#: Metrics of postprocessing.
POSTPROCESSING = tuple({*COUNTERS, *GAUGES, *HISTOGRAMS} - {"requests_total", *ENGINE_GAUGES})

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """The metrics of one model process. Any thread may call any method; none blocks for long."""

    def __init__(self, family: Any, names: Sequence[str], labels: dict[str, str]) -> None:
        """Register the metrics and start the thread.

        Args:
            family: Triton's class MetricFamily, or one like it.
            names: the metrics of this process.
            labels: labels of all of them.
        """
        self._family = family
        self._labels = labels
        self._families = {name: self._make_family(name) for name in names}
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._counts: defaultdict[tuple[str, Labels], float] = defaultdict(float)
        self._observed: list[tuple[str, float]] = []
        self._gauges: dict[tuple[str, Labels], Callable[[], float]] = {}
        self._gauge_values: dict[tuple[str, Labels], float] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        """Add *value* to a counter."""
        with self._lock:
            self._counts[name, tuple(labels.items())] += value

    def observe(self, name: str, seconds: float) -> None:
        """Add a value to a histogram."""
        with self._lock:
            self._observed.append((name, seconds))

    def gauge(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Read a gauge's value from *read* from now on."""
        self._gauges[name, tuple(labels.items())] = read

    def close(self) -> None:
        """Stop the thread and drop Triton's objects.

        Their destructors use the shared memory of Triton's stub. If they outlive it, the stub ends
        with a segmentation fault.
        """
        self._stopped.set()
        self._thread.join(timeout=2.0)
        self._gauges.clear()
        self._metrics.clear()
        self._families.clear()

    def _run(self) -> None:
        while not self._stopped.wait(_INTERVAL_S):
            with self._lock:
                counts, self._counts = self._counts, defaultdict(float)
                observed, self._observed = self._observed, []
            for (name, labels), value in counts.items():
                self._hand_over(name, labels, "increment", value)
            for name, seconds in observed:
                self._hand_over(name, (), "observe", seconds)
            for key, read in list(self._gauges.items()):
                # A server killed while a thread is in Metric.set can leave its stub for ever.
                if (value := read()) != self._gauge_values.get(key):
                    self._gauge_values[key] = value
                    self._hand_over(*key, "set", value)

    def _hand_over(self, name: str, labels: Labels, method: str, value: float) -> None:
        """Call a method of one Triton metric; an error concerns this metric only."""
        try:
            if (metric := self._metric(name, labels)) is not None:
                getattr(metric, method)(value)
        except Exception:
            logger.exception("the metric %s could not be handed to Triton", name)

    def _make_family(self, name: str) -> Any:
        if name in HISTOGRAMS:
            kind = getattr(self._family, "HISTOGRAM", None)
            if kind is None:
                return None  # Python models of this Triton have no histograms
        else:
            kind = self._family.GAUGE if name in GAUGES else self._family.COUNTER
        text = {**COUNTERS, **GAUGES, **HISTOGRAMS}[name]
        prefix = "" if name.startswith(_FOREIGN) else PREFIX
        return self._family(name=prefix + name, description=text, kind=kind)

    def _metric(self, name: str, labels: Labels = ()) -> Any:
        metric = self._metrics.get((name, labels))
        if metric is None and (family := self._families[name]) is not None:
            more = {"buckets": list(_SECONDS)} if name in HISTOGRAMS else {}
            metric = family.Metric(labels={**self._labels, **dict(labels)}, **more)
            self._metrics[name, labels] = metric
        return metric
