"""The engine on TensorRT-LLM 1.x: its Python LLM API, token ids in and token ids out.

One event loop, in a thread of its own, holds a task for each request. Text is none of it: the
tokenizer is this package's, in pre- and postprocessing. Names of TensorRT-LLM that differ between
versions are in `_llmapi_versions`, the parameters of a request in `_llmapi_sampling`.
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

_LOOK_S = 1.0  # how often a silent engine is looked after
_STOP_S = 60.0


class LlmApiEngine(Engine):
    """Generates with ``tensorrt_llm.LLM``.

    Alone in Triton's eyes, LLM() starts the ranks of its model by itself. As one of several MPI
    ranks (`ranks.read_rank`) the first leads and lends LLM() the others, which wait in `follow`.

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
        if self._api.double:
            logger.warning("this is the tests' double of TensorRT-LLM, not the real one")
        self._adapters = s.adapters
        self._guided = s.arguments.get("guided_decoding_backend") is not None
        arguments = self._arguments(s)
        self.max_seq_len = int(arguments["max_seq_len"])
        # 0, which is not checked, for a model on the hub.
        self._vocab_size = vocab_size(read_json(Path(s.model_dir) / "config.json"))
        self._lock = threading.Lock()
        self._open: dict[int, Stream] = {}
        self._ended: str | None = None  # why no request is taken any more
        self._stopping = False
        self._parallel = rank.size > 1
        try:
            if self._parallel:
                arguments["_mpi_session"] = self._api.comm_session(rank.size)
            self._llm = self._api.llm(model=s.model_dir, **arguments)
        except Exception as error:
            raise EngineError(
                f"{WHERE}: LLM() does not start for {s.model_dir}: {one_line(error)}; what "
                "TensorRT-LLM said stands above"
            ) from error
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="llmapi-engine", daemon=True)
        self._thread.start()

    def _arguments(self, s: LlmApiSettings) -> dict[str, Any]:
        """Of LLM(), but for its model and session.

        Raises:
            SettingsError: it has no such argument, or one has a wrong value.
        """
        given = s.arguments
        known = self._api.llm_arguments(given.get("backend"))
        for name in given:
            if name not in known:
                raise SettingsError(
                    f"{WHERE}: LLM() of TensorRT-LLM {self._api.version} has no argument {name!r}"
                    f"{nearest(name, known)}; correct or remove it in llm_args"
                )
        # A guide is compiled for the tokenizer's vocabulary; nothing else needs one.
        given.setdefault("skip_tokenizer_init", not self._guided)
        try:
            return self._api.typed(given)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{WHERE}: llm_args: {one_line(error)}; correct it") from error

    def _run(self) -> None:
        """The loop's thread. Whatever ends it, every open request gets its last chunk."""
        asyncio.set_event_loop(self._loop)
        try:
            watching = self._loop.create_task(self._watch())
            self._loop.run_forever()
            watching.cancel()
            # What was aborted has a moment to end by itself; nobody waits for its tokens.
            left = asyncio.all_tasks(self._loop)
            self._loop.run_until_complete(asyncio.wait(left, timeout=_LOOK_S))
        finally:
            self._die("its event loop ended")
            self._loop.close()

    async def _watch(self) -> None:
        """An engine may die while nobody asks it anything."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if cause := compat.death(self._llm):
                self._die(cause)

    def _die(self, cause: str) -> None:
        with self._lock:
            if self._ended is None:
                self._ended = self.died = f"{WHERE} has died: {cause}; restart the server"
                logger.error("%s", self._ended)
            left = list(self._open.values())
        last = Chunk(error=self._ended)
        if self._stopping:
            last = Chunk(finish_reason=FinishReason.CANCELLED)
        for stream in left:
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
            raise RequestError(f"TensorRT-LLM refuses this: {one_line(error)}") from error
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
        """One of another size would fail a whole batch."""
        bias, size = request.embedding_bias, self._vocab_size
        if bias is not None and size and len(bias) != size:
            raise RequestError(
                f"embedding_bias has {len(bias)} numbers; the model has {size} tokens, set "
                "vocab_size of the model preprocessing so"
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
        """One request, from its start to its last chunk."""
        if stream.over:  # cancelled before its start
            return
        try:
            stream.result = self._llm.generate_async(
                list(stream.request.prompt_ids),
                sampling_params=params,
                lora_request=lora,
                streaming=stream.request.stream,
            )
        except (ValueError, self._api.request_error) as error:  # it checks arguments with these
            text = f"TensorRT-LLM refuses this: {one_line(error)}"
            self._end(stream, Chunk(error=text, refused=True))
            return
        except Exception as error:
            self._fail(stream, error)
            return
        try:
            async for step in stream.result:
                if stream.over:
                    return
                chunk = stream.next(step)
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
        """A request has failed; if the executor has, all have."""
        self._end(stream, Chunk(error=f"TensorRT-LLM: {one_line(error)}"))
        if compat.death(self._llm):
            self._die(one_line(error))
        elif stream.result is not None:  # what failed may be ours, and TensorRT-LLM go on
            stream.result.abort()

    def _end(self, stream: Stream, last: Chunk) -> None:
        """In the loop's thread, as all that a stream does: nothing follows its last chunk."""
        if stream.over:
            return
        stream.over = True
        with self._lock:
            del self._open[stream.request.key]
        stream.emit(last)

    def cancel(self, key: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and all have ended
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
        aborted = threading.Event()  # before there is nothing left to abort them in
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(aborted.set)
            aborted.wait(_LOOK_S)
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
    """
    Raises:
        SettingsError: the model is not split over just these ranks.
        EngineError: mpi4py is missing, or belongs to another MPI than the one that started them.
    """
    world = math.prod(s.arguments.get(name, 1) for name in SIZES)
    if world != rank.size:
        raise SettingsError(
            f"{WHERE}: there are {rank.size} ranks, and llm_args split the model over {world} "
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
            f"{WHERE}: {rank.source} tell of {rank.size} ranks and mpi4py sees "
            f"{COMM_WORLD.Get_size()}; start them with the mpirun of the MPI that mpi4py uses"
        )
