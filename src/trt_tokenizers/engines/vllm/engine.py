"""The engine `vllm`: vLLM's AsyncLLM, token ids in and token ids out.

The model runs in processes that vLLM starts (`processes`), on one GPU or several. vLLM loads no
tokenizer, unless guides need it. `compat` hides the differences between versions of vLLM;
`sampling` converts the parameters of a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.engines.base import GenerationRequest
from trt_tokenizers.engines.event_loop import EventLoopEngine
from trt_tokenizers.engines.vllm import compat, processes
from trt_tokenizers.engines.vllm.compat import WHERE
from trt_tokenizers.engines.vllm.sampling import sampling_params
from trt_tokenizers.engines.vllm.settings import VllmSettings, checked
from trt_tokenizers.engines.vllm.statistics import Statistics
from trt_tokenizers.engines.vllm.stream import VllmStream
from trt_tokenizers.errors import EngineError, SettingsError, one_line
from trt_tokenizers.streams.ensemble_inputs import supported_by
from trt_tokenizers.streams.stream_folder import stream_folder

#: Ids of requests to vLLM; a key may be used again before vLLM has forgotten it.
_IDS = itertools.count()
_STOP_S = 1.0  # for vLLM to end its processes; then they are killed
_KILL_S = 0.5  # for vLLM to notice that
_CAUSE_S = 10.0  # an error that was logged this long before a failure may be its cause

#: Unless engine_args set them.
_DEFAULTS = {
    "skip_tokenizer_init": True,
    # The log-probabilities of this package are those after penalties, temperature, top_k and top_p.
    "logprobs_mode": "processed_logprobs",
    # With "auto" vLLM checks each guide with the library that suits it, but compiles all with that
    # of the first one, which fails some.
    "structured_outputs_config": {"backend": "xgrammar"},
    # No log lines of vLLM's own: `Statistics` has the figures.
    "disable_log_stats": True,
}
#: Environment variables unless set: this server reports nothing to anyone.
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class VllmEngine(EventLoopEngine):
    """Generates with ``vllm.v1.engine.async_llm.AsyncLLM``.

    Raises:
        SettingsError: a setting cannot be used, or vLLM has no such argument.
        EngineError: vLLM is missing or too old, or does not start.
    """

    settings_class = VllmSettings
    supported = supported_by("vllm")
    library = "vLLM"
    stream_class = VllmStream
    guides_need = "the vLLM argument skip_tokenizer_init=false"

    _api: compat.Api

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
        arguments = {**_DEFAULTS, **s.arguments}
        self._guided = not arguments["skip_tokenizer_init"]
        self._statistics = Statistics()
        self.gauges = self._statistics.gauges
        self._start_loop(s)
        children = multiprocessing.active_children()
        start = self._start(s.model_dir, arguments)
        try:
            self._llm = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        except Exception:
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
                f"{WHERE}: vLLM refuses engine_args: {' '.join(str(error).split())}; correct them"
            ) from error
        since = time.monotonic()
        try:
            llm = self._api.async_llm.from_vllm_config(
                config, stat_loggers=[lambda *_: self._statistics], disable_log_stats=True
            )
        except Exception as error:
            cause = processes.first_error(self._errors, since) or one_line(error)
            raise EngineError(f"{WHERE}: vLLM does not start for {model}: {cause}") from error
        compat.drop_overhead(llm)
        return llm

    def _params(self, request: GenerationRequest) -> Any:
        return sampling_params(self._api, request)

    async def _generate(
        self, request: GenerationRequest, params: Any, lora: Any
    ) -> AsyncGenerator[Any, None]:
        prompt = compat.prompt(request.prompt_ids)
        steps = self._llm.generate(prompt, params, str(next(_IDS)), lora_request=lora)
        with self._refusals(), self._api.guide_refusals(request.guide):
            async with contextlib.aclosing(steps):
                async for step in steps:
                    yield step

    def _failure(self, error: Exception | None = None) -> str | None:
        dead = next((p for p in self._processes if p.exitcode is not None), None)
        if dead is None and not self._llm.errored:
            return None
        if cause := processes.first_error(self._errors, time.monotonic() - _CAUSE_S):
            return cause
        if dead is None:
            return "vLLM gives no reason; see its messages above"
        return f"its process {dead.name} ended with exit code {dead.exitcode}"

    def _shut_down(self) -> None:
        # The loop runs until vLLM's processes have ended: the kernel kills them with its thread.
        stopping = threading.Thread(target=self._llm.shutdown, daemon=True)
        stopping.start()
        stopping.join(timeout=_STOP_S)
        for process in self._processes:
            process.kill()  # the kernel then kills those that it has started
        stopping.join(timeout=_KILL_S)

    def stop(self) -> None:
        super().stop()
        del self._llm  # its destructor fails at the end of the interpreter
