"""The engine `llmapi`: TensorRT-LLM 1.x by its Python LLM API, token ids in and token ids out.

An event loop in its own thread runs one task per request. The engine handles no text. `compat`
hides the differences between versions of TensorRT-LLM; `sampling` converts the parameters of a
request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import threading
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
from trt_tokenizers.engines.llmapi import compat
from trt_tokenizers.engines.llmapi.compat import WHERE
from trt_tokenizers.engines.llmapi.sampling import GUIDES, sampling_params
from trt_tokenizers.engines.llmapi.settings import SIZES, LlmApiSettings, checked
from trt_tokenizers.engines.llmapi.stream import Stream
from trt_tokenizers.errors import EngineError, RequestError, SettingsError, one_line
from trt_tokenizers.hf_config import read_json, vocab_size
from trt_tokenizers.mpi_environment import Rank, read_rank
from trt_tokenizers.settings import nearest
from trt_tokenizers.streams.ensemble_inputs import supported_by

logger = logging.getLogger(__name__)

_POLL_S = 1.0  # interval of the checks whether the executor still runs
_STOP_S = 60.0
_BATCH_SIZE = 2048  # max_batch_size of LLM() by default


class LlmApiEngine(Engine):
    """Generates with ``tensorrt_llm.LLM``.

    In a single process LLM() starts the ranks of its model itself. If MPI has started several ranks
    (`mpi_environment.read_rank`), the first one leads and gives the others to LLM(); they wait in
    `follow`.

    Raises:
        SettingsError: a setting cannot be used, or LLM() has no such argument.
        EngineError: TensorRT-LLM is missing or too old, or LLM() fails.
    """

    settings_class = LlmApiSettings
    supported = supported_by("llmapi")

    @classmethod
    def check(cls, settings: Mapping[str, str]) -> None:
        checked(settings)

    def __init__(self, settings: Mapping[str, str]) -> None:
        s = checked(settings)
        rank = read_rank(os.environ)
        self.leads = rank.index == 0
        if rank.size > 1:
            _check_ranks(s, rank)
        else:
            compat.clear_job()
        if not self.leads:
            return
        self._api = compat.Api()
        self._adapters = s.adapters
        self._guided = s.arguments.get("guided_decoding_backend") is not None
        arguments = self._arguments(s)
        self.max_seq_len = int(arguments["max_seq_len"])
        self.max_batch_size = int(arguments.get("max_batch_size") or _BATCH_SIZE)
        # 0 for a model on the hub: then token ids are not checked.
        self._vocab_size = vocab_size(read_json(Path(s.model_dir) / "config.json"))
        self._lock = threading.Lock()
        self._open: dict[int, Stream] = {}  # by key
        self._ended: str | None = None  # why the engine accepts no more requests
        self._stopping = False
        self._parallel = rank.size > 1
        try:
            if self._parallel:
                arguments["_mpi_session"] = self._api.comm_session(rank.size)
            self._llm = self._api.llm(model=s.model_dir, **arguments)
        except Exception as error:
            raise EngineError(
                f"{WHERE}: LLM() does not start for {s.model_dir}: {one_line(error)}; see the "
                "messages of TensorRT-LLM above"
            ) from error
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="llmapi-engine", daemon=True)
        self._thread.start()

    def _arguments(self, s: LlmApiSettings) -> dict[str, Any]:
        """The arguments of LLM() other than its model and MPI session.

        Raises:
            SettingsError: LLM() has no such argument, or one has a wrong value.
        """
        arguments = s.arguments
        known = self._api.llm_arguments(arguments.get("backend"))
        for name in arguments:
            if name not in known:
                raise SettingsError(
                    f"{WHERE}: LLM() of TensorRT-LLM {self._api.version} has no argument {name!r}"
                    f"{nearest(name, known)}; correct or remove it in llm_args"
                )
        # Only guided decoding needs LLM()'s tokenizer: it compiles a guide for the vocabulary.
        arguments.setdefault("skip_tokenizer_init", not self._guided)
        try:
            return self._api.typed(arguments)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{WHERE}: llm_args: {one_line(error)}; correct it") from error

    def _run(self) -> None:
        """Run the event loop. When it ends, send every open request its last chunk."""
        asyncio.set_event_loop(self._loop)
        try:
            watching = self._loop.create_task(self._watch())
            self._loop.run_forever()
            watching.cancel()
            # Aborted requests get a moment to end; their clients have their last chunk already.
            tasks = asyncio.all_tasks(self._loop)
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=_POLL_S))
        finally:
            self._die("its event loop ended")
            self._loop.close()

    async def _watch(self) -> None:
        """Check the executor regularly, because it may fail without an error to any request."""
        while True:
            await asyncio.sleep(_POLL_S)
            if cause := compat.executor_failure(self._llm):
                self._die(cause)

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
        self._check_bias(request)
        lora = self._lora(request.lora)
        if request.guide is not None:
            self._check_guide(*request.guide)
        try:
            params = sampling_params(self._api, request)
        except ValueError as error:
            raise RequestError(f"TensorRT-LLM refuses the request: {one_line(error)}") from error
        stream = Stream(request, emit)
        with self._lock:
            if self._ended is not None:
                raise EngineError(self._ended)
            self._open[request.key] = stream
        asyncio.run_coroutine_threadsafe(self._serve(stream, params, lora), self._loop)

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

    def _check_bias(self, request: GenerationRequest) -> None:
        """Refuse an embedding bias of the wrong size, which would fail a whole batch."""
        bias, size = request.embedding_bias, self._vocab_size
        if bias is not None and size and len(bias) != size:
            raise RequestError(
                f"embedding_bias has {len(bias)} numbers, but the model has {size} tokens; set "
                f"vocab_size of the model preprocessing to {size}"
            )

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
                "guided_decoding_guide_type needs a server with the LLM argument "
                "guided_decoding_backend, such as xgrammar; leave it out"
            )

    async def _serve(self, stream: Stream, params: Any, lora: Any) -> None:
        """Run one request from its start to its last chunk."""
        if stream.ended:  # cancelled before its start
            return
        try:
            stream.result = self._llm.generate_async(
                list(stream.request.prompt_ids),
                sampling_params=params,
                lora_request=lora,
                streaming=stream.request.stream,
            )
        except (ValueError, self._api.request_error) as error:  # raised for wrong arguments
            text = f"TensorRT-LLM refuses the request: {one_line(error)}"
            self._end(stream, Chunk(error=text, refused=True))
            return
        except Exception as error:
            self._fail(stream, error)
            return
        try:
            async for step in stream.result:
                if stream.ended:
                    return
                chunk = stream.next_chunk(step)
                if chunk.last:
                    self._end(stream, chunk)
                    if not step.finished:
                        stream.result.abort()
                    return
                if chunk.token_ids:
                    stream.emit(chunk)
            raise EngineError("the answer ended without a finish reason")
        except Exception as error:
            self._fail(stream, error)

    def _fail(self, stream: Stream, error: Exception) -> None:
        """Fail this request, or all requests if the executor has failed."""
        self._end(stream, Chunk(error=f"TensorRT-LLM: {one_line(error)}"))
        if compat.executor_failure(self._llm):
            self._die(one_line(error))
        elif stream.result is not None:  # TensorRT-LLM may not know of the error and generate on
            stream.result.abort()

    def _end(self, stream: Stream, last: Chunk) -> None:
        """Emit the last chunk, once. Runs in the loop's thread, so no other chunk can follow."""
        if stream.ended:
            return
        stream.ended = True
        with self._lock:
            del self._open[stream.request.key]
        stream.emit(last)

    def cancel(self, key: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: all requests have ended
            self._loop.call_soon_threadsafe(self._abort, key)

    def _abort(self, key: int) -> None:
        stream = self._open.get(key)
        if stream is None:
            return
        self._end(stream, Chunk(finish_reason=FinishReason.CANCELLED))
        if stream.result is not None:
            stream.result.abort()

    def follow(self) -> None:
        from mpi4py.futures import MPICommExecutor
        from mpi4py.MPI import COMM_WORLD

        with MPICommExecutor(COMM_WORLD):
            pass
        compat.leave_mpi()

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            self._ended = self._ended or f"{WHERE} has been stopped"
        for key in list(self._open):
            self.cancel(key)
        aborted = threading.Event()  # the aborts must run before shutdown() ends the executor
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(aborted.set)
            aborted.wait(_POLL_S)
        try:
            self._llm.shutdown()
            if self._parallel:
                compat.release_ranks()
                compat.leave_mpi()
        finally:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=_STOP_S)


def _check_ranks(s: LlmApiSettings, rank: Rank) -> None:
    """Check the number of ranks and mpi4py.

    Raises:
        SettingsError: llm_args split the model over another number of ranks.
        EngineError: mpi4py is missing, or uses another MPI than the one that started the ranks.
    """
    world = math.prod(s.arguments.get(name, 1) for name in SIZES)
    if world != rank.size:
        raise SettingsError(
            f"{WHERE}: there are {rank.size} ranks, but llm_args split the model over {world} "
            f"({' × '.join(SIZES)}); start it with --world-size {world}, or change llm_args"
        )
    try:
        from mpi4py.MPI import COMM_WORLD
    except (ImportError, RuntimeError) as error:
        raise EngineError(
            f"{WHERE} over {rank.size} ranks needs mpi4py: {one_line(error)}; pip install mpi4py"
        ) from error
    if COMM_WORLD.Get_size() != rank.size:
        raise EngineError(
            f"{WHERE}: {rank.source} give {rank.size} ranks, but mpi4py sees "
            f"{COMM_WORLD.Get_size()}; start them with the mpirun of the MPI that mpi4py uses"
        )
