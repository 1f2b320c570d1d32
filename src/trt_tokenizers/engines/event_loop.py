"""The base of the engines whose library serves from an event loop: `llmapi` and `vllm`.

The loop runs in its own thread, with one task per request. Cancelling the task aborts the request.
The engines handle no text.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from trt_tokenizers.engines.arguments import ArgumentSettings
from trt_tokenizers.engines.base import (
    Chunk,
    Emit,
    Engine,
    FinishReason,
    GenerationRequest,
    StopWords,
    check_ids,
)
from trt_tokenizers.engines.sampling_params import check_guide, split_stop_words
from trt_tokenizers.errors import EngineError, RequestError, one_line
from trt_tokenizers.hf_config import read_json, vocab_size
from trt_tokenizers.settings import nearest

logger = logging.getLogger(__name__)

_POLL_S = 0.5  # interval of the checks whether the library still serves
_ABORT_S = 1.0  # for the aborts of open requests at the end
_STOP_S = 60.0  # for the thread to end


class Stream(ABC):
    """The state of one request. Used only in the event loop.

    Attributes:
        task: generates the answer; None before the start.
        ended: whether the last chunk was emitted.
        sent: number of tokens in the chunks so far.
    """

    def __init__(self, request: GenerationRequest, emit: Emit) -> None:
        self.request = request
        self.emit = emit
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        self.sent = 0
        _, words = split_stop_words(request)
        self._stop_words = StopWords(words, request.min_tokens) if words else None

    def next_chunk(self, step: Any) -> Chunk:
        """The new tokens of *step*, an output of the library.

        Raises:
            EngineError: the library failed this request.
        """
        output = step.outputs[0]
        ids = self.new_ids(output)
        reason = self.reason(output) if step.finished else FinishReason.NOT_FINISHED
        if self._stop_words is not None:
            for count, token in enumerate(ids, 1):
                if self._stop_words.add(token):
                    ids, reason = ids[:count], FinishReason.STOP
                    break
        probs = self.log_probs(output, ids) if self.request.return_log_probs and ids else ()
        perf = self.perf(step) if self.request.return_perf_metrics and reason else None
        self.sent += len(ids)
        return Chunk(token_ids=ids, log_probs=probs, finish_reason=reason, perf=perf)

    @abstractmethod
    def new_ids(self, output: Any) -> tuple[int, ...]:
        """The tokens that *output* adds to those sent."""

    @abstractmethod
    def reason(self, output: Any) -> FinishReason:
        """Why the library ended the answer."""

    @abstractmethod
    def log_probs(self, output: Any, ids: tuple[int, ...]) -> tuple[float, ...]:
        """The log-probabilities of *ids*, the first of the new tokens."""

    @abstractmethod
    def perf(self, step: Any) -> Mapping[str, float] | None:
        """The figures of the whole answer."""


class EventLoopEngine(Engine):
    """Serves every request in a task of one event loop.

    A subclass sets `_api` and the library's own state; then it starts the `_watch`.
    """

    #: The library's name, for error messages.
    library: ClassVar[str]
    stream_class: ClassVar[type[Stream]]
    #: What a server with guides has.
    guides_need: ClassVar[str]

    #: The installed library. Has ``client_errors``, which it raises for a wrong request, and
    #: ``lora_request``.
    _api: Any
    #: Whether the library can follow guides.
    _guided: bool

    def _start_loop(self, settings: ArgumentSettings) -> None:
        self._where = settings.where
        self._adapters = settings.adapters
        # 0 for a model on the hub: then token ids are not checked.
        self._vocab_size = vocab_size(read_json(Path(settings.model_dir) / "config.json"))
        self._lock = threading.Lock()
        self._open: dict[int, Stream] = {}  # by key
        self._ended: str | None = None  # why the engine accepts no more requests
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="event-loop-engine", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=_ABORT_S))
        self._loop.close()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=_STOP_S)

    async def _watch(self) -> None:
        """Check the library regularly: it may fail without an error to any request."""
        while True:
            await asyncio.sleep(_POLL_S)
            if cause := self._failure():
                self._die(cause)

    def _die(self, cause: str) -> None:
        """Fail all open requests and accept no more."""
        with self._lock:
            if self._ended is None:
                self._ended = self.died = f"{self._where} has died: {cause}; restart the server"
                logger.error("%s", self._ended)
            streams = list(self._open.values())
        for stream in streams:
            self._end(stream, Chunk(error=self._ended))

    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        check_ids(request, self._vocab_size)
        bias, size = request.embedding_bias, self._vocab_size
        if bias is not None and size and len(bias) != size:  # it could fail a whole batch
            raise RequestError(
                f"embedding_bias has {len(bias)} numbers, but the model has {size} tokens; set "
                f"vocab_size of the model preprocessing to {size}"
            )
        lora = self._lora(request.lora)
        if request.guide is not None:
            check_guide(*request.guide)
            if not self._guided:
                raise RequestError(
                    f"guided_decoding_guide_type needs a server with {self.guides_need}; leave it "
                    "out"
                )
        with self._refusals():
            params = self._params(request)
        stream = self.stream_class(request, emit)
        with self._lock:
            if self._ended is not None:
                raise EngineError(self._ended)
            self._open[request.key] = stream
        self._loop.call_soon_threadsafe(self._begin, stream, params, lora)

    def _lora(self, name: str | None) -> Any:
        if name is None:
            return None
        if name not in self._adapters:
            raise RequestError(
                f"lora_name is {name!r}{nearest(name, self._adapters)}; this server has "
                + (", ".join(self._adapters) or "none, set loras of the model tensorrt_llm")
            )
        number, folder = self._adapters[name]
        return self._api.lora_request(name, number, folder)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Convert the library's errors for a wrong request.

        Raises:
            RequestError: the library refuses the request.
        """
        try:
            yield
        except self._api.client_errors as error:
            text = " ".join(str(error).split())
            raise RequestError(f"{self.library} refuses the request: {text}") from error

    def _begin(self, stream: Stream, params: Any, lora: Any) -> None:
        if not stream.ended:  # cancelled before its start
            stream.task = self._loop.create_task(self._serve(stream, params, lora))

    async def _serve(self, stream: Stream, params: Any, lora: Any) -> None:
        """Run one request from its start to its last chunk."""
        try:
            async with contextlib.aclosing(self._generate(stream.request, params, lora)) as steps:
                async for step in steps:
                    chunk = stream.next_chunk(step)
                    if chunk.last:
                        self._end(stream, chunk)
                        return
                    if chunk.token_ids:
                        stream.emit(chunk)
            raise EngineError("the answer ended without a finish reason")
        except RequestError as error:
            self._end(stream, Chunk(error=str(error), refused=True))
        except Exception as error:
            if cause := self._failure(error):
                self._die(cause)
            self._end(stream, Chunk(error=f"{self.library}: {one_line(error)}"))

    def _end(self, stream: Stream, last: Chunk) -> None:
        """Emit the last chunk, once. Runs in the loop's thread, so no other chunk can follow."""
        if stream.ended:
            return
        stream.ended = True
        with self._lock:
            del self._open[stream.request.key]
        # The traceback of a cancelled task keeps its stream. Triton's response sender, which `emit`
        # has, would crash the stub if it were freed at the end of the process.
        emit, stream.emit = stream.emit, _ignore
        emit(last)

    def cancel(self, key: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: all requests have ended
            self._loop.call_soon_threadsafe(self._abort, key)

    def _abort(self, key: int) -> None:
        if stream := self._open.get(key):
            self._end(stream, Chunk(finish_reason=FinishReason.CANCELLED))
            if stream.task is not None:
                stream.task.cancel()

    async def _abort_all(self) -> None:
        tasks = [stream.task for stream in self._open.values() if stream.task is not None]
        for key in list(self._open):
            self._abort(key)
        if tasks:
            await asyncio.wait(tasks)

    def stop(self) -> None:
        with self._lock:
            self._ended = self._ended or f"{self._where} has been stopped"
        aborted = asyncio.run_coroutine_threadsafe(self._abort_all(), self._loop)
        concurrent.futures.wait([aborted], timeout=_ABORT_S)
        try:
            self._shut_down()
        finally:
            self._stop_loop()

    @abstractmethod
    def _params(self, request: GenerationRequest) -> Any:
        """The library's SamplingParams. An error of ``client_errors`` refuses the request."""

    @abstractmethod
    def _generate(
        self, request: GenerationRequest, params: Any, lora: Any
    ) -> AsyncGenerator[Any, None]:
        """The library's outputs for *request*. Closing the generator aborts the request.

        Raises:
            RequestError: the library refuses the request.
        """

    @abstractmethod
    def _failure(self, error: Exception | None = None) -> str | None:
        """Why the library serves nothing more; None while it does. *error* ended a request."""

    @abstractmethod
    def _shut_down(self) -> None:
        """End the library and its processes, after the abort of all requests."""


def _ignore(chunk: Chunk) -> None:
    """Takes the place of a stream's `emit` after its last chunk."""
