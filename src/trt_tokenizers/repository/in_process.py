"""A repository's ensemble in this process, without Triton.

`Wiring` carries the tensors between the models, as Triton does by config.pbtxt. The engine gets its
requests through a `ResponseDispatcher`, as in the model ``tensorrt_llm``. The dispatcher's thread
also decodes the responses, so tokens that arrive meanwhile are decoded together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeAlias

from trt_tokenizers.engines.base import ENGINES, Engine
from trt_tokenizers.engines.dispatcher import ResponseDispatcher
from trt_tokenizers.engines.serving_settings import ServingSettings
from trt_tokenizers.engines.tensors import OUTPUTS, PERF, parse_requests
from trt_tokenizers.errors import EngineError, as_exception
from trt_tokenizers.plugins import find_plugin
from trt_tokenizers.processing.answer import Answer
from trt_tokenizers.processing.engine_steps import engine_steps
from trt_tokenizers.processing.postprocess import PostprocessingSettings, Postprocessor
from trt_tokenizers.processing.preprocess import PreprocessingSettings, Preprocessor
from trt_tokenizers.processing.request import from_tensors, scalars
from trt_tokenizers.repository.wiring import TEXT_MODELS, Array, Wiring
from trt_tokenizers.settings import parse
from trt_tokenizers.streams.context_store import ContextStore
from trt_tokenizers.streams.stream_key import StreamKeyTransport, sequence_key

#: What a running request emits: the parts of its answer and then None, or an error.
Item: TypeAlias = "Answer | Exception | None"
#: Receives the items of one request; called from any thread, returns at once, never raises.
Put: TypeAlias = Callable[[Item], None]


class RunningRequest:
    """One request: the dispatcher's `ResponseSender`, which decodes the responses."""

    wanted: Collection[str] = frozenset(OUTPUTS)
    postprocessed = False

    def __init__(
        self, decode: Callable[[Mapping[str, Array]], Iterator[tuple[int, Answer]]],
        cancel: Callable[[int], None], release: Callable[[int], None], put: Put,
    ) -> None:  # fmt: skip
        self._decode = decode
        self._cancel = cancel
        self._release = release
        self._put = put
        self.open: set[int] = set()  # keys of the sequences that have not ended
        self.context: int | None = None  # key of its context, if it has one
        self._ended = False

    def send(self, arrays: dict[str, Array], *, final: bool) -> None:
        try:
            for key, part in self._decode(arrays):
                self._pass_on(key, part)
        except BaseException as error:  # a panic of Rust is no Exception
            self.cancel()
            self.fail(as_exception(error))

    def _pass_on(self, key: int, part: Answer) -> None:
        if key not in self.open:
            return  # after a stop string the engine generates a little more
        if part.text or part.token_ids or part.finish_reason or part.prompt_end is not None:
            self._put(part)
        if part.finish_reason:
            self.open.discard(key)
            if not self.open:
                self._end(None)

    def fail(self, error: Exception) -> None:
        self.open.clear()
        if self.context is not None:  # postprocessing may not see the end of the stream
            self._release(self.context)
        self._end(error)

    def _end(self, last: Exception | None) -> None:
        """Emit the last item, once: an engine may send chunks and errors after the end."""
        if not self._ended:
            self._ended = True
            self._put(last)

    def is_cancelled(self) -> bool:
        return False  # `cancel` tells the engine at once

    def cancel(self) -> None:
        """Stop generating; no effect if the request has ended."""
        for key in list(self.open):
            self._cancel(key)


class InProcessEnsemble:
    """Preprocessing, an engine and postprocessing, loaded. Any thread may call any method."""

    def __init__(self, wiring: Wiring) -> None:
        """Load the models.

        Raises:
            SettingsError, TokenizerError, TemplateError, EngineError: a model does not load.
        """
        self._wiring = wiring
        settings = {name: dict(values) for name, values in wiring.settings.items()}
        for name in TEXT_MODELS:
            settings[name]["stream_key"] = StreamKeyTransport.TENSOR.value
        for_text = {name: (settings[name], f"model {name!r}") for name in TEXT_MODELS}
        preprocessing = parse(PreprocessingSettings, *for_text["preprocessing"])
        postprocessing = parse(PostprocessingSettings, *for_text["postprocessing"])
        self._lock = threading.Lock()  # of preprocessing, and of the start of requests
        self._closed = False
        with contextlib.ExitStack() as closing:
            self._contexts = ContextStore()  # before the engine: vllm puts its sockets there
            closing.callback(self._contexts.close)
            self._preprocessor = Preprocessor(preprocessing, self._contexts)
            self._postprocessor = Postprocessor(postprocessing, self._contexts)
            own, where = settings[wiring.engine], f"model {wiring.engine!r}"
            serving = ServingSettings.take(own, where)
            serving.choose_gpus(f"{wiring.engine}_0", where)
            self._engine: Engine = find_plugin(ENGINES, serving.engine, "engine", EngineError)(own)
            self._dispatcher = ResponseDispatcher(
                self._engine,
                dataclasses.replace(serving, max_queue_size=0),  # the caller knows what waits
                keep_alive=self._contexts.touch,
            )
            closing.callback(self._dispatcher.stop)
            self._closing = closing.pop_all()

    @property
    def max_batch_size(self) -> int:
        """Sequences that the engine generates at once; 0 if unknown."""
        return self._engine.max_batch_size

    @property
    def died(self) -> str | None:
        """Why the engine has failed permanently; None while it serves."""
        return self._engine.died

    def close(self) -> None:
        """End all requests as cancelled, and the engine."""
        with self._lock:  # no request gets to an engine that has stopped
            self._closed = True
        self._closing.close()

    def start(self, inputs: Mapping[str, Any], put: Put) -> RunningRequest:
        """Start a request and return at once; *put* gets its items.

        Args:
            inputs: of the ensemble, by name. Unknown names are refused as a server does.

        Raises:
            EngineError: it is closed.
        """
        request = RunningRequest(self._decode, self._dispatcher.cancel, self._contexts.release, put)
        with self._lock:
            if self._closed:
                raise EngineError("the pipeline is closed; make another one")
            try:
                self._submit(inputs, request)
            except Exception as error:
                request.fail(error)
        return request

    def _submit(self, inputs: Mapping[str, Any], running: RunningRequest) -> None:
        wiring = self._wiring
        known = {name: value for name, value in inputs.items() if name in wiring.types}
        others = {name: value for name, value in inputs.items() if name not in wiring.types}
        pool = wiring.tensors(known)
        request = from_tensors(wiring.inputs("preprocessing", pool), "", others)
        (prepared,) = self._preprocessor.process_batch([request])
        if isinstance(prepared, Exception):
            raise prepared
        pool |= wiring.outputs("preprocessing", prepared.arrays)
        running.context = prepared.arrays["STREAM_KEY"].item()
        rows = parse_requests(wiring.inputs(wiring.engine, pool))
        running.open.update(row.key for row in rows)
        self._dispatcher.submit(rows, running)

    def _decode(self, arrays: Mapping[str, Array]) -> Iterator[tuple[int, Answer]]:
        """The engine's key and the part of the answer of each sequence in a response."""
        pool = self._wiring.outputs(self._wiring.engine, arrays)
        inputs = self._wiring.inputs("postprocessing", pool)
        perf = {name: arrays[name].item() for name in PERF if name in arrays}
        for step in engine_steps(inputs, None, False, scalars(inputs, "STREAM_KEY")):
            (text,) = self._postprocessor.process(step)
            key = sequence_key(step.key or 0, step.sequence)
            if text.stop_engine:
                self._dispatcher.cancel(key)
            yield key, Answer.of_step(text, step.sequence or 0, perf)
