"""Requests to the engines `llmapi` (on the test double of TensorRT-LLM) and `vllm`."""

from __future__ import annotations

import itertools
import json
import queue
from pathlib import Path
from typing import Any

from trt_tokenizers.engines.base import Chunk, GenerationRequest
from trt_tokenizers.engines.event_loop import EventLoopEngine
from trt_tokenizers.engines.llmapi.engine import LlmApiEngine
from trt_tokenizers.engines.vllm.engine import VllmEngine

KEYS = itertools.count(1)
PROMPT = (5, 6, 7)
ENGINES: dict[str, type[EventLoopEngine]] = {"llmapi": LlmApiEngine, "vllm": VllmEngine}
#: Arguments of the library for a tiny model on a CPU.
SMALL: dict[str, dict[str, Any]] = {
    "llmapi": {},
    "vllm": {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 32 << 20},
}


def make_engine(kind: str, model_dir: Path, loras: str = "", **arguments: Any) -> Any:
    settings = {"model_dir": str(model_dir), "max_seq_len": "256", "loras": loras}
    name = ENGINES[kind].settings_class.arguments_name  # type: ignore[union-attr]
    return ENGINES[kind]({**settings, name: json.dumps({**SMALL[kind], **arguments})})


def request(**values: Any) -> GenerationRequest:
    given = {"prompt_ids": PROMPT, "max_tokens": 12, **values}
    return GenerationRequest(key=next(KEYS), **given)


def rest(chunks: queue.SimpleQueue[Chunk]) -> list[Chunk]:
    """The chunks up to the last one."""
    found = [chunks.get(timeout=60)]
    while not found[-1].last:
        found.append(chunks.get(timeout=60))
    return found


def begin(engine: EventLoopEngine, r: GenerationRequest) -> queue.SimpleQueue[Chunk]:
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    engine.submit(r, chunks.put)
    return chunks


def answer(engine: EventLoopEngine, r: GenerationRequest) -> list[Chunk]:
    return rest(begin(engine, r))


def ids(chunks: list[Chunk]) -> list[int]:
    assert chunks[-1].error is None, chunks[-1].error
    return [i for chunk in chunks for i in chunk.token_ids]
