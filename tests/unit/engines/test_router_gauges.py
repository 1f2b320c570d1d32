"""The load of an engine under the names that routers read."""

from __future__ import annotations

from typing import Any

import pytest

from replay import ReplayEngine
from trt_tokenizers.engines.router_gauges import router_gauges


def read(running: int, **attributes: Any) -> dict[tuple[str, str, str], float]:
    engine = ReplayEngine({})
    engine.stop()
    for name, value in attributes.items():
        setattr(engine, name, value)
    found = router_gauges(engine, lambda: running)
    return {(name, label, value): read() for name, label, value, read in found}


@pytest.mark.parametrize(
    ("running", "room", "waiting", "scheduled"), [(3, 8, 0, 3), (11, 8, 3, 8), (5, 0, 0, 5)]
)
def test_sequences_beyond_the_batch_wait(
    running: int, room: int, waiting: int, scheduled: int
) -> None:
    assert read(running, max_batch_size=room) == {
        ("nv_trt_llm_request_metrics", "request_type", "waiting"): waiting,
        ("nv_trt_llm_request_metrics", "request_type", "scheduled"): scheduled,
    }


def test_an_engines_own_figures_count() -> None:
    gauges = {"engine_requests_waiting": lambda: 2.0, "engine_kv_cache_usage": lambda: 0.5}
    assert read(9, max_batch_size=1, gauges=gauges) == {
        ("nv_trt_llm_request_metrics", "request_type", "waiting"): 2,
        ("nv_trt_llm_request_metrics", "request_type", "scheduled"): 7,
        ("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "fraction"): 0.5,
    }
