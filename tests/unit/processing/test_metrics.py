"""Counts, gauges and histograms on their way to Triton."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import triton_python_backend_utils as pb_utils

from launching import until
from trt_tokenizers.processing.metrics import POSTPROCESSING, Metrics


class CountedMetric(pb_utils.Metric):
    sets = 0

    def set(self, value: float) -> None:
        CountedMetric.sets += 1
        super().set(value)


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    metrics = Metrics(pb_utils.MetricFamily, POSTPROCESSING, {"model": "m"})
    yield metrics
    metrics.close()


def family(name: str) -> pb_utils.MetricFamily:
    (found,) = (
        its
        for its in pb_utils.LIVE_METRICS
        if isinstance(its, pb_utils.MetricFamily) and its.name == f"trt_tokenizers:{name}"
    )
    return found


def total(name: str, **labels: str) -> float:
    return sum(m.value() for m in family(name).metrics if labels.items() <= m.labels.items())


def test_counts_arrive_with_their_labels(metrics: Metrics) -> None:
    metrics.count("request_success_total", finished_reason="stop")
    metrics.count("request_success_total", finished_reason="stop")
    metrics.count("request_success_total", finished_reason="length")
    metrics.count("prompt_tokens_total", 7)
    metrics.observe("time_to_first_token_seconds", 0.25)
    until(lambda: family("time_to_first_token_seconds").metrics)
    assert total("request_success_total", finished_reason="stop", model="m") == 2
    assert total("request_success_total") == 3
    assert total("prompt_tokens_total") == 7
    (histogram,) = family("time_to_first_token_seconds").metrics
    until(lambda: histogram.observed == [0.25])


def test_an_undeclared_name_loses_no_other_count(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    metrics.count("no_such_metric")
    metrics.count("prompt_tokens_total", 7)
    metrics.observe("no_such_histogram", 1.0)
    metrics.observe("time_to_first_token_seconds", 0.25)
    until(lambda: family("time_to_first_token_seconds").metrics)
    assert total("prompt_tokens_total") == 7
    assert "the metric no_such_metric could not be handed to Triton" in caplog.text
    assert "the metric no_such_histogram could not be handed to Triton" in caplog.text


def test_a_gauge_is_set_only_when_it_changes(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pb_utils, "Metric", CountedMetric)
    monkeypatch.setattr("trt_tokenizers.processing.metrics._INTERVAL_S", 0.05)
    reads = [2.0]

    def read() -> float:
        reads.append(reads[-1] if len(reads) < 4 else 3.0)
        return reads[-1]

    metrics.gauge("num_requests_running", read)
    until(lambda: len(reads) >= 6)
    assert CountedMetric.sets == 2
    assert total("num_requests_running") == 3


def test_a_triton_without_histograms_has_the_other_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(pb_utils.MetricFamily, "HISTOGRAM")
    metrics = Metrics(pb_utils.MetricFamily, POSTPROCESSING, {})
    metrics.observe("time_to_first_token_seconds", 0.25)
    metrics.count("prompt_tokens_total", 7)
    until(lambda: total("prompt_tokens_total") == 7)
    metrics.close()


def test_close_drops_all_of_tritons_objects(metrics: Metrics) -> None:
    """Their destructors must run before Triton's stub loses its shared memory."""
    metrics.gauge("num_requests_running", lambda: 1.0)
    metrics.count("prompt_tokens_total", 7)
    until(lambda: total("prompt_tokens_total") == 7)
    metrics.close()
    assert [*pb_utils.LIVE_METRICS] == []
    metrics.count("prompt_tokens_total", 7)  # a late response
    assert [*pb_utils.LIVE_METRICS] == []


def test_a_gauge_of_another_name_space_has_a_value_for_each_label() -> None:
    name = "nv_trt_llm_request_metrics"
    metrics = Metrics(pb_utils.MetricFamily, [name], {"model": "m"})
    try:
        metrics.gauge(name, lambda: 3, request_type="waiting")
        metrics.gauge(name, lambda: 4, request_type="scheduled")
        (its,) = (f for f in pb_utils.LIVE_METRICS if getattr(f, "name", "") == name)
        until(lambda: len(its.metrics) == 2)
        assert {m.labels["request_type"]: m.value() for m in its.metrics} == {
            "waiting": 3, "scheduled": 4,
        }  # fmt: skip
    finally:
        metrics.close()
