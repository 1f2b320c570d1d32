"""The engine `llmapi`: TensorRT-LLM 1.x by its Python LLM API, token ids in and token ids out.

`compat` hides the differences between versions of TensorRT-LLM; `sampling` converts the parameters
of a request.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from trt_tokenizers.engines.base import GenerationRequest
from trt_tokenizers.engines.event_loop import EventLoopEngine
from trt_tokenizers.engines.llmapi import compat
from trt_tokenizers.engines.llmapi.compat import WHERE
from trt_tokenizers.engines.llmapi.sampling import sampling_params
from trt_tokenizers.engines.llmapi.settings import SIZES, LlmApiSettings, checked
from trt_tokenizers.engines.llmapi.stream import LlmApiStream
from trt_tokenizers.errors import EngineError, SettingsError, one_line
from trt_tokenizers.mpi_environment import Rank, read_rank
from trt_tokenizers.settings import nearest
from trt_tokenizers.streams.ensemble_inputs import supported_by

_BATCH_SIZE = 2048  # max_batch_size of LLM() by default


class LlmApiEngine(EventLoopEngine):
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
    library = "TensorRT-LLM"
    stream_class = LlmApiStream
    guides_need = "the LLM argument guided_decoding_backend, such as xgrammar"

    _api: compat.Api

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
        backend = s.arguments.get("guided_decoding_backend")
        self._guided, self._xgrammar = backend is not None, backend == "xgrammar"
        arguments = self._arguments(s)
        self.max_seq_len = int(arguments["max_seq_len"])
        self.max_batch_size = int(arguments.get("max_batch_size") or _BATCH_SIZE)
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
        self._start_loop(s)
        asyncio.run_coroutine_threadsafe(self._watch(), self._loop)

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

    def _params(self, request: GenerationRequest) -> Any:
        if request.guide is not None and self._xgrammar:
            compat.check_guide(*request.guide)
        return sampling_params(self._api, request)

    async def _generate(
        self, request: GenerationRequest, params: Any, lora: Any
    ) -> AsyncGenerator[Any, None]:
        with self._refusals():
            result = self._llm.generate_async(
                list(request.prompt_ids),
                sampling_params=params,
                lora_request=lora,
                streaming=request.stream,
            )
        try:
            async for step in result:
                yield step
        finally:  # TensorRT-LLM may not know of an error, and generate on
            if not result.finished and self._failure() is None:
                result.abort()

    def _failure(self, error: Exception | None = None) -> str | None:
        cause = compat.executor_failure(self._llm)
        return one_line(error) if cause and error else cause

    def follow(self) -> None:
        from mpi4py.futures import MPICommExecutor
        from mpi4py.MPI import COMM_WORLD

        with MPICommExecutor(COMM_WORLD):
            pass
        compat.leave_mpi()

    def _shut_down(self) -> None:
        self._llm.shutdown()
        if self._parallel:
            compat.release_ranks()
            compat.leave_mpi()


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
