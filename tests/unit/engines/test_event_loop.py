"""What the engines `llmapi` and `vllm` share, with a library whose steps the test chooses."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from library_engines import answer, begin, request, rest
from trt_tokenizers.engines import event_loop
from trt_tokenizers.engines.arguments import ArgumentSettings
from trt_tokenizers.engines.base import Chunk, FinishReason, GenerationRequest
from trt_tokenizers.engines.event_loop import EventLoopEngine
from trt_tokenizers.engines.sampling_params import split_stop_words
from trt_tokenizers.engines.vllm.stream import VllmStream
from trt_tokenizers.errors import EngineError, RequestError


class Settings(ArgumentSettings):
    where = "engine 'scripted'"


class ScriptedEngine(EventLoopEngine):
    library = "Lib"
    stream_class = VllmStream
    guides_need = "the argument tokenizer"

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._api = SimpleNamespace(
            client_errors=(ValueError,), lora_request=lambda *adapter: adapter
        )
        self._guided = False
        self.cause: str | None = None
        self.started: list[tuple[int, Any]] = []  # keys of requests and their adapters
        self.aborted = 0
        self.steps: queue.SimpleQueue[asyncio.Queue[Any]] = queue.SimpleQueue()
        self._start_loop(Settings(**settings))
        asyncio.run_coroutine_threadsafe(self._watch(), self._loop)

    def play(self, steps: asyncio.Queue[Any], ids: list[int], reason: str | None = None) -> None:
        """Add a step of a request."""
        output = SimpleNamespace(token_ids=ids, finish_reason=reason)
        step = SimpleNamespace(outputs=[output], finished=reason is not None)
        self._loop.call_soon_threadsafe(steps.put_nowait, step)

    def fail(self, steps: asyncio.Queue[Any], error: Exception) -> None:
        self._loop.call_soon_threadsafe(steps.put_nowait, error)

    def settle(self) -> None:
        """Wait until the loop has no task left for a request."""

        async def others() -> None:
            while len(asyncio.all_tasks()) > 2:  # this task and the engine's watch
                await asyncio.sleep(0.01)

        asyncio.run_coroutine_threadsafe(others(), self._loop).result(20)

    def _params(self, request: GenerationRequest) -> Any:
        if request.top_k == 13:
            raise ValueError("top_k is\n13")

    async def _generate(
        self, request: GenerationRequest, params: Any, lora: Any
    ) -> AsyncGenerator[Any, None]:
        self.started.append((request.key, lora))
        steps: asyncio.Queue[Any] = asyncio.Queue()
        self.steps.put(steps)
        finished = False
        try:
            while not finished:
                step = await steps.get()
                if step is None:
                    return
                if isinstance(step, Exception):
                    with self._refusals():
                        raise step
                finished = step.finished
                yield step
        finally:
            self.aborted += not finished

    def _failure(self, error: Exception | None = None) -> str | None:
        return self.cause

    def _shut_down(self) -> None:
        pass


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEngine]:
    monkeypatch.setattr(event_loop, "_POLL_S", 0.05)
    (tmp_path / "config.json").write_text('{"vocab_size": 256}')
    loras: Any = (f"fr={tmp_path}",)
    engine = ScriptedEngine({"model_dir": str(tmp_path), "loras": loras})
    yield engine
    if engine._thread.is_alive():
        engine.stop()


def started(engine: ScriptedEngine) -> tuple[queue.SimpleQueue[Chunk], asyncio.Queue[Any]]:
    """The chunks and the steps of a request."""
    chunks = begin(engine, request(stream=True))
    return chunks, engine.steps.get(timeout=20)


def test_a_request_cancelled_before_its_start_is_not_generated(engine: ScriptedEngine) -> None:
    held, go = threading.Event(), threading.Event()
    engine._loop.call_soon_threadsafe(lambda: (held.set(), go.wait(20)))
    held.wait(20)
    r = request(stream=True)
    chunks = begin(engine, r)
    engine.cancel(r.key)
    go.set()
    assert chunks.get(timeout=20).finish_reason is FinishReason.CANCELLED
    engine.settle()
    assert engine.started == []


def test_a_key_may_be_used_again_once_its_answer_has_ended(engine: ScriptedEngine) -> None:
    """Late steps of the old request do not affect the new one."""
    r = request(stream=True)
    old, first = begin(engine, r), engine.steps.get(timeout=20)
    engine.play(first, [1])
    assert old.get(timeout=20).token_ids == (1,)
    engine.cancel(r.key)
    assert old.get(timeout=20).last
    new, second = begin(engine, r), engine.steps.get(timeout=20)
    engine.play(first, [2], "abort")
    engine.play(second, [3], "length")
    assert new.get(timeout=20).token_ids == (3,)
    engine.settle()
    assert old.empty()
    assert engine.aborted == 1


def test_an_answer_that_breaks_off_is_an_error(engine: ScriptedEngine) -> None:
    chunks, steps = started(engine)
    engine.play(steps, [1])
    engine._loop.call_soon_threadsafe(steps.put_nowait, None)
    assert "without a finish reason" in (rest(chunks)[-1].error or "")


def test_a_step_that_cannot_be_read_aborts_the_request(engine: ScriptedEngine) -> None:
    """Without the abort the library would generate on."""
    chunks, steps = started(engine)
    engine.play(steps, [1], "a new reason")
    assert rest(chunks)[-1].error == "Lib: EngineError: vLLM ended the answer: a new reason"
    chunks = begin(engine, request(return_log_probs=True))
    engine.play(engine.steps.get(timeout=20), [1])
    assert rest(chunks)[-1].error
    engine.settle()
    assert engine.aborted == 1


@pytest.mark.parametrize(
    ("error", "refused"), [(ValueError("too\nlong"), True), (TypeError("too long"), False)]
)
def test_wrong_values_are_the_clients_error_and_others_the_servers(
    engine: ScriptedEngine, error: Exception, refused: bool
) -> None:
    chunks, steps = started(engine)
    engine.fail(steps, error)
    (chunk,) = rest(chunks)
    expected = "Lib refuses the request: too long" if refused else "Lib: TypeError: too long"
    assert (chunk.error, chunk.refused) == (expected, refused)


def test_nothing_follows_the_last_chunk(engine: ScriptedEngine) -> None:
    """A step may arrive after the engine died; merged with the error chunk it would hide it."""
    chunks, steps = started(engine)
    engine.play(steps, [1])
    assert chunks.get(timeout=20).token_ids == (1,)
    engine._loop.call_soon_threadsafe(engine._die, "a test")
    engine.play(steps, [2])
    engine.play(steps, [3], "length")
    engine.settle()
    assert chunks.get(timeout=20).error
    assert chunks.empty()


def test_a_silent_death_ends_all_requests(engine: ScriptedEngine) -> None:
    (first, _), (second, _) = started(engine), started(engine)
    engine.cause = "worker 1 is gone"
    died = "engine 'scripted' has died: worker 1 is gone; restart the server"
    assert [rest(chunks)[-1].error for chunks in (first, second)] == [died] * 2
    assert engine.died == died
    with pytest.raises(EngineError, match="has died"):
        begin(engine, request())


def test_an_error_of_a_request_tells_of_a_death_at_once(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_loop, "_POLL_S", 60)
    (first, steps), (second, _) = started(engine), started(engine)
    engine._loop.call_soon_threadsafe(setattr, engine, "cause", "worker 1 is gone")
    engine.fail(steps, RuntimeError("queue closed"))
    for chunks in (first, second):
        assert "worker 1 is gone" in (rest(chunks)[-1].error or "")


def test_stop_ends_open_requests(engine: ScriptedEngine) -> None:
    (first, _), (second, _) = started(engine), started(engine)
    engine.stop()
    for chunks in (first, second):
        assert rest(chunks)[-1].finish_reason is FinishReason.CANCELLED
    assert engine.aborted == 2
    assert engine.died is None
    engine.cancel(1)
    with pytest.raises(EngineError, match="has been stopped"):
        begin(engine, request())


def test_adapters_by_name(engine: ScriptedEngine, tmp_path: Path) -> None:
    begin(engine, request(lora="fr"))
    engine.steps.get(timeout=20)
    assert engine.started[0][1] == ("fr", 1, str(tmp_path))
    with pytest.raises(RequestError, match=r"did you mean 'fr'\?\); this server has fr"):
        begin(engine, request(lora="frr"))
    engine._adapters = {}
    with pytest.raises(RequestError, match="this server has none, set loras"):
        begin(engine, request(lora="fr"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guide": ("regexp", "a")}, "did you mean 'regex'?"),
        ({"guide": ("regex", "a")}, "needs a server with the argument tokenizer"),
        ({"guide": ("regex", "a" * 2**16)}, "has 65536 bytes; a regex has at most 32768"),
        ({"guide": ("regex", "")}, "guided_decoding_guide is missing; send the regex"),
        ({"end_ids": frozenset((256,))}, "end_id holds the token id 256"),
        ({"embedding_bias": np.zeros(255, dtype=np.float32)}, "but the model has 256 tokens; set"),
        ({"stop_words": ((),)}, "stop_words holds no token ids"),
        ({"top_k": 13}, "Lib refuses the request: top_k is 13"),
    ],
)
def test_wrong_requests_are_refused(
    engine: ScriptedEngine, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError) as error:
        answer(engine, request(**values))
    assert message in str(error.value)


def test_long_stop_words_are_found_here(engine: ScriptedEngine) -> None:
    words = ((4,), (5, 6))
    assert split_stop_words(request(stop_words=words)) == ([4], [(5, 6)])
    assert split_stop_words(request(stop_words=words, min_tokens=2)) == ([], list(words))
    chunks = begin(engine, request(stop_words=words, stream=True))
    engine.play(engine.steps.get(timeout=20), [4, 5, 6, 7])
    assert rest(chunks) == [Chunk(token_ids=(4, 5, 6), finish_reason=FinishReason.STOP)]
