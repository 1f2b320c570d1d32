"""The load of a Python engine, under the names of TensorRT-LLM's C++ backend.

Routers read these names: the endpoint picker of the Gateway API inference extension, llm-d.
"""

from __future__ import annotations

from collections.abc import Callable

from trt_tokenizers.engines.base import Engine

Read = Callable[[], float]
_REQUESTS = "nv_trt_llm_request_metrics"
_BLOCKS = "nv_trt_llm_kv_cache_block_metrics"


def router_gauges(engine: Engine, running: Callable[[], int]) -> list[tuple[str, str, str, Read]]:
    """The gauges that *engine* has: name, label, the label's value, and what reads it.

    Args:
        running: number of sequences that *engine* has not ended, waiting ones included.
    """
    room = engine.max_batch_size

    def beyond_the_batch() -> float:
        return max(0, running() - room) if room else 0

    waiting = engine.gauges.get("engine_requests_waiting", beyond_the_batch)
    gauges: list[tuple[str, str, str, Read]] = [
        (_REQUESTS, "request_type", "waiting", waiting),
        (_REQUESTS, "request_type", "scheduled", lambda: max(0, running() - waiting())),
    ]
    if usage := engine.gauges.get("engine_kv_cache_usage"):
        gauges.append((_BLOCKS, "kv_cache_block_type", "fraction", usage))
    return gauges
