"""The engine `vllm`: vLLM's AsyncLLM, token ids in and token ids out.

An event loop in its own thread runs one task per request. The model runs in processes that vLLM
starts (`processes`), on one GPU or several. The engine handles no text: vLLM loads no tokenizer,
unless guides need it. `compat` hides the differences between versions of vLLM; `sampling` converts
the parameters of a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.engines.base import (
    Chunk,
    Emit,
    Engine,
    FinishReason,
    GenerationRequest,
    check_ids,
)
from trt_tokenizers.engines.vllm import compat, processes
from trt_tokenizers.engines.vllm.compat import WHERE
from trt_tokenizers.engines.vllm.sampling import GUIDES, sampling_params
from trt_tokenizers.engines.vllm.settings import VllmSettings, checked
from trt_tokenizers.engines.vllm.statistics import Statistics
from trt_tokenizers.engines.vllm.stream import Stream
from trt_tokenizers.errors import EngineError, RequestError, SettingsError, one_line
from trt_tokenizers.hf_config import read_json, vocab_size
from trt_tokenizers.settings import nearest
from trt_tokenizers.streams.ensemble_inputs import supported_by
from trt_tokenizers.streams.stream_folder import stream_folder

logger = logging.getLogger(__name__)
_IDS = (
    itertools.count()
)  # of requests to vLLM; a key may be used again before vLLM has forgotten it

_POLL_S = 0.5  # interval of the checks whether vLLM's processes still run
_STOP_S = 1.0  # for vLLM to end its processes; then they are killed
_CAUSE_S = 10.0  # an error that was logged this long before a failure may be its cause

#: Unless engine_args set them.
_DEFAULTS = {
    "skip_tokenizer_init": True,
    # The log-probabilities of this package are those after penalties, temperature, top_k and top_p.
    "logprobs_mode": "processed_logprobs",
    # No log lines and no Prometheus registry of vLLM's own: `Statistics` has the figures.
    "disable_log_stats": True,
}
#: Environment variables unless set: this server reports nothing to anyone.
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class VllmEngine(Engine):
    """Generates with ``vllm.v1.engine.async_llm.AsyncLLM``.

    Raises:
        SettingsError: a setting cannot be used, or vLLM has no such argument.
        EngineError: vLLM is missing or too old, or does not start.
    """

    supported = supported_by("vllm")
    settings_class = VllmSettings

    @classmethod
    def check(cls, settings: Mapping[str, str]) -> None:
        checked(settings)

    def __init__(self, settings: Mapping[str, str]) -> None:
        s = checked(settings)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        folder = stream_folder(os.getppid())  # the launcher removes it; short paths for sockets
        if folder.is_dir():
            folder /= "vllm"
            folder.mkdir(exist_ok=True)
        else:
            folder = Path(tempfile.mkdtemp(prefix="vllm-"))
        self._errors = processes.prepare(folder)
        self._api = compat.Api()
        self._adapters = s.adapters
        arguments = {**_DEFAULTS, **s.arguments}
        self._guided = not arguments["skip_tokenizer_init"]
        # 0 for a model on the hub: then token ids are not checked.
        self._vocab_size = vocab_size(read_json(Path(s.model_dir) / "config.json"))
        self._lock = threading.Lock()
        self._open: dict[int, Stream] = {}  # by key
        self._ended: str | None = None  # why the engine accepts no more requests
        self._stopping = False
        self._statistics = Statistics()
        self.gauges = self._statistics.gauges
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="vllm-engine", daemon=True)
        self._thread.start()
        children = multiprocessing.active_children()
        start = self._start(s.model_dir, arguments)
        try:
            self._llm = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        except Exception as error:
            self._ended = str(error)
            self._stop_loop()
            raise
        self.max_seq_len = int(self._llm.model_config.max_model_len)
        self._processes = [p for p in multiprocessing.active_children() if p not in children]
        asyncio.run_coroutine_threadsafe(self._watch(), self._loop)

    async def _start(self, model: str, arguments: Mapping[str, Any]) -> Any:
        """The running AsyncLLM. Runs in the loop, which its sockets belong to.

        Raises:
            SettingsError: an argument has a wrong value.
            EngineError: vLLM does not start.
        """
        try:
            args = self._api.engine_args(model=model, **arguments)
            config = args.create_engine_config()
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"{WHERE}: vLLM refuses engine_args: {_text(error)}; correct them"
            ) from error
        since = time.monotonic()
        try:
            return self._api.async_llm.from_vllm_config(
                config, stat_loggers=[self._statistics.logger], disable_log_stats=True
            )
        except Exception as error:
            cause = processes.first_error(self._errors, since) or one_line(error)
            raise EngineError(f"{WHERE}: vLLM does not start for {model}: {cause}") from error

    def _run(self) -> None:
        """Run the event loop. When it ends, send every open request its last chunk."""
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=_POLL_S))
        finally:
            self._die("its event loop ended")
            self._loop.close()

    async def _watch(self) -> None:
        """Check vLLM's processes regularly: they may fail while there are no requests."""
        while True:
            await asyncio.sleep(_POLL_S)
            if cause := self._failure():
                self._die(cause)

    def _failure(self) -> str | None:
        """Why vLLM serves nothing more; None while it does."""
        dead = next((p for p in self._processes if p.exitcode is not None), None)
        if dead is None and not self._llm.errored:
            return None
        if cause := processes.first_error(self._errors, time.monotonic() - _CAUSE_S):
            return cause
        if dead is None:
            return "vLLM gives no reason; see its messages above"
        return f"its process {dead.name} ended with exit code {dead.exitcode}"

    def _die(self, cause: str) -> None:
        """Fail all open requests and accept no more; after `stop` they count as cancelled."""
        with self._lock:
            if self._ended is None:
                self._ended = self.died = f"{WHERE} has died: {cause}; restart the server"
                logger.error("%s", self._ended)
            streams = list(self._open.values())
        last = Chunk(error=self._ended)
        if self._stopping:
            last = Chunk(finish_reason=FinishReason.CANCELLED)
        for stream in streams:
            self._end(stream, last)

    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        check_ids(request, self._vocab_size)
        bias, size = request.embedding_bias, self._vocab_size
        if bias is not None and size and len(bias) != size:
            raise RequestError(
                f"embedding_bias has {len(bias)} numbers, but the model has {size} tokens; set "
                f"vocab_size of the model preprocessing to {size}"
            )
        lora = self._lora(request.lora)
        if request.guide is not None:
            self._check_guide(*request.guide)
        try:
            params = sampling_params(self._api, request)
        except self._api.client_errors as error:
            raise RequestError(f"vLLM refuses the request: {_text(error)}") from error
        stream = Stream(request, emit)
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

    def _check_guide(self, kind: str, guide: str) -> None:
        if kind not in GUIDES:
            raise RequestError(
                f"guided_decoding_guide_type is {kind!r}{nearest(kind, GUIDES)}; it must be one of "
                + ", ".join(GUIDES)
            )
        if not guide and kind != "json":
            raise RequestError(f"guided_decoding_guide is missing; send the {kind}")
        if not self._guided:
            raise RequestError(
                "guided_decoding_guide_type needs a server with the vLLM argument "
                "skip_tokenizer_init=false; leave it out"
            )

    def _begin(self, stream: Stream, params: Any, lora: Any) -> None:
        if not stream.ended:  # cancelled before its start
            stream.task = self._loop.create_task(self._serve(stream, params, lora))

    async def _serve(self, stream: Stream, params: Any, lora: Any) -> None:
        """Run one request from its start to its last chunk. Cancelling the task aborts it."""
        request = stream.request
        steps = self._llm.generate(
            compat.prompt(request.prompt_ids), params, str(next(_IDS)), lora_request=lora
        )
        try:
            async with contextlib.aclosing(steps):
                async for step in steps:
                    chunk = stream.next_chunk(step)
                    if chunk.last:
                        self._end(stream, chunk)
                        return
                    if chunk.token_ids:
                        stream.emit(chunk)
            raise EngineError("the answer ended without a finish reason")
        except self._api.client_errors as error:
            text = f"vLLM refuses the request: {_text(error)}"
            self._end(stream, Chunk(error=text, refused=True))
        except Exception as error:
            if cause := self._failure():
                self._die(cause)
            self._end(stream, Chunk(error=f"vLLM: {one_line(error)}"))

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
        stream = self._open.get(key)
        if stream is None:
            return
        self._end(stream, Chunk(finish_reason=FinishReason.CANCELLED))
        if stream.task is not None:
            stream.task.cancel()

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            self._ended = self._ended or f"{WHERE} has been stopped"
        for key in list(self._open):
            self.cancel(key)
        # The loop runs until vLLM's processes have ended: the kernel kills them with its thread.
        stopping = threading.Thread(target=self._llm.shutdown, daemon=True)
        stopping.start()
        stopping.join(timeout=_STOP_S)
        for process in self._processes:
            process.kill()  # the kernel then kills those that it has started
        stopping.join(timeout=_POLL_S)
        self._stop_loop()
        del self._llm, stopping  # its destructor fails at the end of the interpreter

    def _stop_loop(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=_STOP_S)


def _ignore(chunk: Chunk) -> None:
    """Takes the place of a stream's `emit` after its last chunk."""


def _text(error: Exception) -> str:
    """The error's message in one line."""
    return " ".join(str(error).split())
