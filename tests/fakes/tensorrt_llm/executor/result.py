"""Results of a request, step by step."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tensorrt_llm.sampling_params import SamplingParams


@dataclass(slots=True)
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass(slots=True)
class CompletionOutput:
    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    request_perf_metrics: Any = None
    _last_token_ids_len: int = field(default=0, init=False, repr=False)
    _last_text_len: int = field(default=0, init=False, repr=False)

    @property
    def length(self) -> int:
        return len(self.token_ids)

    @property
    def text_diff(self) -> str:
        return self.text[self._last_text_len :]

    @property
    def token_ids_diff(self) -> list[int]:
        return self.token_ids[self._last_token_ids_len :]


@dataclass
class Step:
    """New tokens of a request, or the error of this request or of the executor."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    perf: Any = None
    error: str | Exception | None = None


class GenerationResult:
    """The result of one request. It can be awaited and iterated with ``async`` only if it was
    created inside a running event loop; elsewhere use `result`."""

    def __init__(
        self,
        request_id: int,
        prompt_token_ids: list[int],
        sampling_params: SamplingParams,
        executor: Any,
    ) -> None:
        self.request_id = request_id
        self.prompt_token_ids = prompt_token_ids
        self.prompt: str | None = None
        self._params = sampling_params
        self._executor = executor
        self._done = False
        self._aborted = False
        self._outputs = [CompletionOutput(0)]
        self._put: Callable[[Step], Any]
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.aqueue = None
            self.queue: queue.SimpleQueue[Step] = queue.SimpleQueue()
            self._put = self.queue.put
        else:
            steps: asyncio.Queue[Step] = asyncio.Queue()
            self.aqueue = steps

            def put(step: Step) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(steps.put_nowait, step)

            self._put = put

    @property
    def outputs(self) -> list[CompletionOutput]:
        return self._outputs

    @property
    def finished(self) -> bool:
        return self._done

    def abort(self) -> None:
        self._executor.abort_request(self.request_id)
        self._aborted = True

    def aborted(self) -> bool:
        return self._aborted

    def _handle(self, step: Step) -> GenerationResult:
        if step.error is not None:
            self._executor.handle_background_error(step.error)
        self._done = step.finish_reason is not None
        output = self._outputs[0]
        output._last_token_ids_len = len(output.token_ids)
        output.token_ids = output.token_ids + step.token_ids
        if self._params.logprobs:
            pairs = zip(step.token_ids, step.logprobs, strict=True)
            output.logprobs = output.logprobs + [{i: Logprob(p, 1)} for i, p in pairs]
            output.cumulative_logprob = sum(
                value.logprob for token in output.logprobs for value in token.values()
            )
        if self._done:
            output.finish_reason = step.finish_reason
            output.request_perf_metrics = step.perf
            if not self._params.include_stop_str_in_output:
                for word in self._params._get_stop_words():
                    if output.token_ids[-len(word) :] == word:
                        output.token_ids = output.token_ids[: -len(word)]
                        break
        return self

    def __aiter__(self) -> GenerationResult:
        return self

    async def __anext__(self) -> GenerationResult:
        if self._done:
            raise StopAsyncIteration
        assert self.aqueue is not None, (
            "The asyncio event loop was not present during initialization, so async operations "
            "are not available."
        )
        return self._handle(await self.aqueue.get())

    async def aresult(self) -> GenerationResult:
        async for _ in self:
            pass
        return self

    def __await__(self) -> Any:
        return self.aresult().__await__()

    def result(self, timeout: float | None = None) -> GenerationResult:
        while not self._done:
            self._handle(self.queue.get(timeout=timeout))
        return self
