"""The three Triton models. The only file that imports triton_python_backend_utils.

Tensors become dataclasses here and dataclasses tensors; everything else happens in
`preprocess`, `postprocess` and `engines`. A request that is wrong gets one error response with
the right status; the other requests of its batch are served.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from trt_tokenizers import logs
from trt_tokenizers.engines import tensors
from trt_tokenizers.engines.base import ENGINES, Engine
from trt_tokenizers.engines.dispatcher import ResponseDispatcher, ServingSettings
from trt_tokenizers.engines.termination import end_process, end_server_once_loaded
from trt_tokenizers.errors import EngineError, RequestError, StoppingError, TrtTokenizersError
from trt_tokenizers.plugins import find_plugin
from trt_tokenizers.processing.metrics import ENGINE_GAUGES, POSTPROCESSING, Metrics
from trt_tokenizers.processing.optional_inputs import as_declared
from trt_tokenizers.processing.postprocess import (
    EngineStep,
    PostprocessingSettings,
    Postprocessor,
    output_arrays,
)
from trt_tokenizers.processing.preprocess import EngineRequest, PreprocessingSettings, Preprocessor
from trt_tokenizers.processing.request import TextRequest, from_tensors, scalars
from trt_tokenizers.processing.text_sequence import TextStep
from trt_tokenizers.settings import MODEL_DIRECTORY, parse
from trt_tokenizers.streams.cancellation import STOP_REQUEST, CancelReceiver, CancelSender
from trt_tokenizers.streams.context_store import ContextStore
from trt_tokenizers.streams.stream_key import (
    FinishReason,
    StreamKeyTransport,
    key_of_request_id,
    sequence_key,
    unpack,
)

NOT_FINISHED = FinishReason.NOT_FINISHED
_NO_PARAMETERS = ("", "{}")  # nothing to parse, as a rule

Args = dict[str, str]


def _start(args: Args) -> tuple[dict[str, str], str]:
    """The model's parameters and its name for error messages; log lines go to Triton."""
    logs.send_to(pb_utils.Logger)
    config = json.loads(args["model_config"])
    # An empty value is one that was not set; engines do not see the parameters of others.
    parameters = {
        k: v["string_value"].replace(MODEL_DIRECTORY, args["model_repository"])
        for k, v in config.get("parameters", {}).items()
        if v["string_value"]
    }
    # Triton's own, for every Python model.
    parameters.pop("FORCE_CPU_ONLY_INPUT_TENSORS", None)
    parameters.pop("EXECUTION_ENV_PATH", None)
    return parameters, f"model {args['model_name']!r}, config.pbtxt"


def _failure(error: Exception) -> Any:
    """The error response: 400 for what the client can mend, 503 before a stop, else 500."""
    if isinstance(error, RequestError):
        triton_error = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    elif isinstance(error, StoppingError):
        triton_error = pb_utils.TritonError(str(error), pb_utils.TritonError.UNAVAILABLE)
    else:
        if not isinstance(error, TrtTokenizersError):
            logging.getLogger(__name__).error("unexpected error", exc_info=error)
        text = str(error) or type(error).__name__
        triton_error = pb_utils.TritonError(text, pb_utils.TritonError.INTERNAL)
    return pb_utils.InferenceResponse(output_tensors=[], error=triton_error)


def _guarded(serve: Callable[[Any], Any], request: Any, metrics: Metrics) -> Any:
    """One response per request, whatever happens to it."""
    try:
        return serve(request)
    except Exception as error:
        metrics.count("request_errors_total", kind=type(error).__name__)
        return _failure(error)


def _metrics(args: Args, names: Sequence[str]) -> Metrics:
    return Metrics(pb_utils.MetricFamily, names, {"model": args["model_name"]})


def _response(arrays: Mapping[str, Any], *, sequence_id: int | None = None) -> Any:
    outputs = [pb_utils.Tensor(name, array) for name, array in arrays.items()]
    if sequence_id is None:
        return pb_utils.InferenceResponse(outputs)
    return pb_utils.InferenceResponse(outputs, parameters={"sequence_id": sequence_id})


def _response_parameters() -> bool:
    """Whether this server's responses can have parameters: Triton 25.02 and newer."""
    try:
        pb_utils.InferenceResponse(output_tensors=[], parameters={"sequence_id": 1})
    except TypeError:
        return False
    return True


class PreprocessingModel:
    """text_input or messages -> input ids."""

    def initialize(self, args: Args) -> None:
        parameters, where = _start(args)
        settings = parse(PreprocessingSettings, parameters, where)
        self._contexts = ContextStore()
        self._metrics = _metrics(args, ["requests_total", "request_errors_total"])
        self._preprocessor = Preprocessor(
            settings, self._contexts, response_parameters=_response_parameters()
        )
        self._types = {
            output["name"]: np.dtype(pb_utils.triton_string_to_numpy(output["data_type"]))
            for output in json.loads(args["model_config"])["output"]
        }

    def execute(self, requests: list[Any]) -> list[Any]:
        self._metrics.count("requests_total", len(requests))
        texts: list[TextRequest | Exception] = []
        for request in requests:
            try:
                inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
                given = request.parameters()
                parameters = {} if given in _NO_PARAMETERS else json.loads(given)
                texts.append(from_tensors(inputs, request.request_id(), parameters))
            except Exception as error:
                texts.append(error)
        return [self._answer(made) for made in self._preprocessor.process_batch(texts)]

    def _answer(self, made: EngineRequest | Exception) -> Any:
        if isinstance(made, Exception):
            self._metrics.count("request_errors_total", kind=type(made).__name__)
            return _failure(made)
        return _response(as_declared(made.arrays, self._types), sequence_id=made.sequence_id)

    def finalize(self) -> None:
        self._metrics.close()
        self._contexts.close()


class PostprocessingModel:
    """The engine's ids -> text."""

    def initialize(self, args: Args) -> None:
        parameters, where = _start(args)
        settings = parse(PostprocessingSettings, parameters, where)
        self._carrier = StreamKeyTransport.choose(
            settings.stream_key, response_parameters=_response_parameters()
        )
        self._contexts = ContextStore()
        self._metrics = _metrics(args, POSTPROCESSING)
        keys_return = self._carrier is StreamKeyTransport.REQUEST_ID
        self._postprocessor = Postprocessor(
            settings, self._contexts, self._metrics, keys_return=keys_return
        )
        self._engine = CancelSender(self._contexts.directory)
        self._stop_model = settings.stop_model
        # A request to another model waits for its answer, which execute() must not.
        self._stoppers = ThreadPoolExecutor(1, thread_name_prefix="stop-request")

    def execute(self, requests: list[Any]) -> list[Any]:
        return [_guarded(self._serve, request, self._metrics) for request in requests]

    def _serve(self, request: Any) -> Any:
        # All at once: Triton's look-up by name goes through all inputs each time.
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        ids = inputs["TOKENS_BATCH"]  # [rows, beams, n]
        lengths = inputs.get("SEQUENCE_LENGTH")  # [rows, beams]
        log_probs = inputs.get("LOG_PROBS")
        packed = None
        if self._carrier is StreamKeyTransport.TENSOR:
            packed = scalars(inputs, "STREAM_KEY")
        rows = scalars(inputs, "BATCH_INDEX") or range(len(ids))
        sequences = scalars(inputs, "SEQUENCE_INDEX")
        key, finish = self._untold_key(request) if packed is None else (None, NOT_FINISHED)
        steps: list[list[TextStep]] = []
        for at, padded in enumerate(ids.tolist()):
            sequence = sequences[at] if sequences else None
            if packed is not None:
                key, finish, sequence = unpack(packed[at])
            counts = [None] * len(padded) if lengths is None else lengths[at].tolist()
            steps.append(
                self._postprocessor.process(
                    EngineStep(
                        key=key,
                        beams=[
                            [i for i in beam[:count] if i >= 0]
                            for beam, count in zip(padded, counts, strict=True)
                        ],
                        finish_reason=finish,
                        log_probs=None if log_probs is None else log_probs[at, 0].tolist(),
                        row=0 if packed is not None else rows[at],
                        sequence=sequence,
                    ),
                    request.is_cancelled,
                )
            )
            if key is not None and any(step.stop_engine for step in steps[-1]):
                if packed is not None:
                    self._engine.send([sequence_key(key, sequence)])
                elif self._stop_model and request.request_id():
                    self._stoppers.submit(_request_stop, self._stop_model, request.request_id())
        ids_wanted = "OUT_IDS" in request.requested_output_names()
        return _response(output_arrays(steps, log_probs=log_probs is not None, ids=ids_wanted))

    def _untold_key(self, request: Any) -> tuple[int | None, FinishReason]:
        """The key that no tensor brings, and the end where Triton's flags tell it."""
        if self._carrier is StreamKeyTransport.SEQUENCE_ID:
            ended = request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END
            finish = FinishReason.STOP if ended else NOT_FINISHED
            return request.correlation_id() or None, finish
        return key_of_request_id(request.request_id()), NOT_FINISHED

    def finalize(self) -> None:
        self._metrics.close()
        self._stoppers.shutdown(wait=False, cancel_futures=True)
        self._engine.close()
        self._contexts.close()


def _request_stop(model: str, request_id: str) -> None:
    """TensorRT-LLM's own way to stop a request: another one with its id and ``stop``."""
    try:
        request = pb_utils.InferenceRequest(
            model_name=model,
            request_id=request_id,
            requested_output_names=["output_ids"],
            inputs=[pb_utils.Tensor(name, array) for name, array in STOP_REQUEST.items()],
        )
        for _ in request.exec(decoupled=True):
            pass
    except Exception:  # the request runs to its own end then
        logging.getLogger(__name__).exception("the engine could not be told to stop a request")


class TritonReply:
    """Sends the responses of one request through Triton's response sender."""

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()
        self.wanted: Container[str] = frozenset(request.requested_output_names())

    def send(self, arrays: dict[str, Any], *, final: bool) -> None:
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        self._sender.send(_response(arrays), flags=flags)

    def fail(self, error: Exception) -> None:
        self._sender.send(_failure(error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())


class EngineModel:
    """A Python engine in the place of TensorRT-LLM's C++ backend; decoupled."""

    reply = TritonReply

    def initialize(self, args: Args) -> None:
        parameters, where = _start(args)
        settings = ServingSettings.take(parameters, where)
        settings.choose_gpus(args["model_instance_name"], where)  # before anything looks for them
        self._contexts = ContextStore()
        self._metrics = _metrics(args, ["request_errors_total", *ENGINE_GAUGES])
        self._closing = contextlib.ExitStack()
        for closed in (self._contexts, self._metrics):
            self._closing.callback(closed.close)
        factory = find_plugin(ENGINES, settings.engine, "engine", EngineError)
        engine: Engine = factory(parameters)
        if not engine.leads:
            engine.follow()
            end_server_once_loaded()
            return
        self._server = ResponseDispatcher(engine, settings.max_tokens_per_chunk, end_process)
        self._closing.callback(self._server.stop)
        for name, read in engine.gauges.items():
            self._metrics.gauge(name, read)
        self._metrics.gauge("engine_sequences_running", lambda: self._server.running)
        self._closing.callback(CancelReceiver(self._contexts.directory, self._server.cancel).close)

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            reply = self.reply(request)
            try:
                self._serve(request, reply)
            except Exception as error:
                self._metrics.count("request_errors_total", kind=type(error).__name__)
                with contextlib.suppress(Exception):  # it has its last response already
                    reply.fail(error)

    def _serve(self, request: Any, reply: TritonReply) -> None:
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        try:
            self._server.submit(tensors.parse_requests(arrays), reply)
        except Exception:
            # Postprocessing will see nothing of these streams.
            for key in arrays.get("stream_key", np.empty(0)).ravel().tolist():
                self._contexts.discard(key)
            raise

    def finalize(self) -> None:
        self._closing.close()
