"""The three Triton models. The only file that imports triton_python_backend_utils.

It converts tensors to dataclasses and back; `preprocess`, `postprocess` and `engines` do the rest.
A wrong request gets one error response with the right status. It does not affect the other
requests of its batch.
"""

from __future__ import annotations

# ruff: noqa: E402 - the imports below take seconds
from trt_tokenizers.streams.health_thread import raise_priority

raise_priority()

import contextlib
import gc
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from trt_tokenizers import logs
from trt_tokenizers.engines import tensors
from trt_tokenizers.engines.base import ENGINES, Engine
from trt_tokenizers.engines.dispatcher import ResponseDispatcher
from trt_tokenizers.engines.router_gauges import router_gauges
from trt_tokenizers.engines.serving_settings import ServingSettings
from trt_tokenizers.engines.termination import end_process, end_server_once_loaded
from trt_tokenizers.errors import (
    EngineError,
    RequestError,
    TrtTokenizersError,
    UnavailableError,
    as_exception,
    for_clients,
)
from trt_tokenizers.plugins import find_plugin
from trt_tokenizers.processing.engine_steps import engine_steps
from trt_tokenizers.processing.inspection import inspect
from trt_tokenizers.processing.metrics import ENGINE_GAUGES, POSTPROCESSING, Metrics
from trt_tokenizers.processing.output_arrays import as_declared, output_arrays
from trt_tokenizers.processing.postprocess import PostprocessingSettings, Postprocessor
from trt_tokenizers.processing.preprocess import EngineRequest, PreprocessingSettings, Preprocessor
from trt_tokenizers.processing.request import TextRequest, from_tensors, scalars
from trt_tokenizers.processing.text_sequence import TextStep
from trt_tokenizers.settings import model_settings, parse
from trt_tokenizers.streams import engine_failure
from trt_tokenizers.streams.cancellation import CancelReceiver, CancelSender
from trt_tokenizers.streams.context_store import ContextStore
from trt_tokenizers.streams.response_window import ProcessedResponses, ResponseWindow
from trt_tokenizers.streams.stream_key import StreamKeyTransport, key_of_request_id, sequence_key

Args = dict[str, str]
logger = logging.getLogger(__name__)


def _start(args: Args) -> tuple[dict[str, str], str]:
    """The model's parameters, and its name for error messages; sends log lines to Triton."""
    logs.send_to(pb_utils.Logger)
    config = json.loads(args["model_config"]).get("parameters", {})
    given = {name: value["string_value"] for name, value in config.items()}
    parameters = model_settings(given, args["model_repository"])
    return parameters, f"model {args['model_name']!r}, config.pbtxt"


def _arrays(request: Any) -> dict[str, Any]:
    """All inputs by name, at once: Triton's look-up by name searches all inputs each time."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def _text(read: Callable[[], str]) -> str:
    """The request's id or its parameters, as *read* from Triton, which accepts any bytes."""
    try:
        return read()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"the request id or a parameter is not valid UTF-8: {error.reason}; send UTF-8"
        ) from None


def _response(arrays: Mapping[str, Any], *, sequence_id: int | None = None) -> Any:
    outputs = [pb_utils.Tensor(name, array) for name, array in arrays.items()]
    if sequence_id is None:
        return pb_utils.InferenceResponse(outputs)
    return pb_utils.InferenceResponse(outputs, parameters={"sequence_id": sequence_id})


def _failure(error: Exception, metrics: Metrics | None = None) -> Any:
    """Count the error; its response: 400 if the client can fix it, 503 before a stop, else 500."""
    if metrics is not None:
        metrics.count("request_errors_total", kind=type(error).__name__)
    code = pb_utils.TritonError.INTERNAL
    if isinstance(error, RequestError):
        code = pb_utils.TritonError.INVALID_ARG
    elif isinstance(error, UnavailableError):
        code = pb_utils.TritonError.UNAVAILABLE
    elif not isinstance(error, TrtTokenizersError):
        logger.error("unexpected error", exc_info=error)
    return pb_utils.InferenceResponse([], error=pb_utils.TritonError(for_clients(error), code))


def _response_parameters() -> bool:
    """Whether this server's responses can have parameters: Triton 25.02 and newer."""
    try:
        pb_utils.InferenceResponse(output_tensors=[], parameters={"sequence_id": 1})
    except TypeError:
        return False
    return True


class _Model:
    """What the three models have in common."""

    def _open(self, args: Args, metrics: Sequence[str]) -> None:
        self._contexts = ContextStore()
        self._metrics = Metrics(pb_utils.MetricFamily, metrics, {"model": args["model_name"]})
        self._closing = contextlib.ExitStack()
        self._closing.callback(self._contexts.close)
        self._closing.callback(self._metrics.close)

    def finalize(self) -> None:
        self._closing.close()
        gc.freeze()  # the process ends next, and would first collect garbage


class PreprocessingModel(_Model):
    """text_input or messages -> input ids."""

    def initialize(self, args: Args) -> None:
        parameters, where = _start(args)
        settings = parse(PreprocessingSettings, parameters, where)
        self._open(args, ["requests_total", "request_errors_total"])
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
        inspected: dict[int, EngineRequest] = {}
        for at, request in enumerate(requests):
            try:
                arrays = _arrays(request)
                if "INSPECT" in arrays:
                    inspected[at] = EngineRequest(inspect(arrays, self._preprocessor))
                    continue
                given = _text(request.parameters)
                parameters = json.loads(given) if given not in ("", "{}") else {}
                text = from_tensors(arrays, _text(request.request_id), parameters)
                text.wants_key = "STREAM_KEY" in request.requested_output_names()
                texts.append(text)
            except Exception as error:
                texts.append(error)
        results = iter(self._preprocessor.process_batch(texts))
        return [self._answer(inspected.get(at) or next(results)) for at in range(len(requests))]

    def _answer(self, result: EngineRequest | Exception) -> Any:
        if isinstance(result, Exception):
            return _failure(result, self._metrics)
        return _response(as_declared(result.arrays, self._types), sequence_id=result.sequence_id)


class PostprocessingModel(_Model):
    """The engine's ids -> text."""

    def initialize(self, args: Args) -> None:
        parameters, where = _start(args)
        settings = parse(PostprocessingSettings, parameters, where)
        self._transport = StreamKeyTransport.choose(
            settings.stream_key, response_parameters=_response_parameters()
        )
        self._open(args, POSTPROCESSING)
        self._postprocessor = Postprocessor(
            settings,
            self._contexts,
            self._metrics,
            reusable_keys=self._transport is StreamKeyTransport.REQUEST_ID,
        )
        self._processed = ProcessedResponses(self._contexts.directory)
        self._cancels = CancelSender(self._contexts.directory)
        self._closing.callback(self._cancels.close)
        self._stop_model = settings.stop_model
        # A request to another model blocks until it is answered; execute() must not block.
        self._stop_requests = ThreadPoolExecutor(1, thread_name_prefix="stop-request")
        self._closing.callback(self._stop_requests.shutdown, wait=False, cancel_futures=True)

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            try:
                responses.append(self._serve(request))
            except BaseException as error:
                responses.append(_failure(as_exception(error), self._metrics))
            self._processed.add()
        return responses

    def _serve(self, request: Any) -> Any:
        inputs = _arrays(request)
        by_tensor = self._transport is StreamKeyTransport.TENSOR
        packed = scalars(inputs, "STREAM_KEY") if by_tensor else None
        if packed and (failure := engine_failure.from_arrays(inputs["TOKENS_BATCH"], packed)):
            keys, failed = failure
            self._postprocessor.forget(keys)
            return _failure(failed)
        key, last = (None, False) if packed else self._triton_key(request)
        steps: list[list[TextStep]] = []
        for step in engine_steps(inputs, key, last, packed):
            steps.append(self._postprocessor.process(step, request.is_cancelled))
            if step.key is not None and any(text.stop_engine for text in steps[-1]):
                if packed:
                    self._cancels.send(sequence_key(step.key, step.sequence))
                elif self._stop_model and (request_id := _text(request.request_id)):
                    self._stop_requests.submit(_stop, self._stop_model, request_id)
        return _response(output_arrays(steps, log_probs="LOG_PROBS" in inputs))

    def _triton_key(self, request: Any) -> tuple[int | None, bool]:
        """The key that Triton passes on, and whether its flags mark the engine's last response."""
        if self._transport is StreamKeyTransport.SEQUENCE_ID:
            last = request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END
            return request.correlation_id() or None, bool(last)
        request_id = _text(request.request_id)
        return key_of_request_id(request_id) if request_id else None, False


def _stop(model: str, request_id: str) -> None:
    """Stop a request as TensorRT-LLM does: by another one with its id and ``stop``."""
    try:
        request = pb_utils.InferenceRequest(
            model_name=model,
            request_id=request_id,
            requested_output_names=["output_ids"],
            inputs=[pb_utils.Tensor(name, array) for name, array in tensors.STOP_REQUEST.items()],
        )
        for _ in request.exec(decoupled=True):
            pass
    except Exception:
        logger.exception("the engine could not be asked to stop a request; it runs to its end")


class TritonReply:
    """Sends the responses of one request through Triton's response sender."""

    def __init__(self, request: Any, contexts: ContextStore, metrics: Metrics) -> None:
        self._sender = request.get_response_sender()
        self._contexts, self._metrics = contexts, metrics
        self._began = False
        self.wanted: Collection[str] = request.requested_output_names()
        self.keys: list[int] = []  # of the rows, if postprocessing gets the responses

    @property
    def postprocessed(self) -> bool:
        return bool(self.keys)

    def send(self, arrays: dict[str, Any], *, final: bool) -> None:
        self._began = True
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        self._sender.send(_response(arrays), flags=flags)

    def fail(self, error: Exception) -> None:
        response = _failure(error, self._metrics)
        if self.keys and self._began and isinstance(error, TrtTokenizersError):
            response = _response(engine_failure.to_arrays(self.keys, error))
        else:
            for key in self.keys:  # postprocessing will not see these streams
                self._contexts.release(key)
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        # Triton does not tell a running step of an ensemble. It tells the next: postprocessing.
        return not self.keys and bool(self._sender.is_cancelled())


class EngineModel(_Model):
    """A Python engine in the place of TensorRT-LLM's C++ backend; decoupled or not."""

    reply = TritonReply

    def initialize(self, args: Args) -> None:
        parameters, where = _start(args)
        settings = ServingSettings.take(parameters, where)
        settings.choose_gpus(args["model_instance_name"], where)  # before a library looks for GPUs
        self._open(args, ["request_errors_total", *ENGINE_GAUGES])
        factory = find_plugin(ENGINES, settings.engine, "engine", EngineError)
        engine: Engine = factory(parameters)
        if not engine.leads:
            engine.follow()
            end_server_once_loaded()
            return
        policy = json.loads(args["model_config"]).get("model_transaction_policy", {})
        self._server = ResponseDispatcher(
            engine,
            settings,
            end_process,
            decoupled=policy.get("decoupled", False),
            window=ResponseWindow(self._contexts.directory),
            keep_alive=self._contexts.touch,
        )
        self._closing.callback(self._server.stop)
        for name, read in engine.gauges.items():
            self._metrics.gauge(name, read)
        self._metrics.gauge("engine_sequences_running", lambda: self._server.running)
        for name, label, value, read in router_gauges(engine, lambda: self._server.running):
            self._metrics.gauge(name, read, **{label: value})
        self._closing.callback(CancelReceiver(self._contexts.directory, self._server.cancel).close)
        # Later collections of garbage skip what stays: with vLLM all of it takes 0.4 s.
        gc.collect()
        gc.freeze()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            reply = self.reply(request, self._contexts, self._metrics)
            try:
                self._serve(request, reply)
            except Exception as error:
                with contextlib.suppress(Exception):  # the last response may have been sent
                    reply.fail(error)

    def _serve(self, request: Any, reply: TritonReply) -> None:
        arrays = _arrays(request)
        # Direct clients send no key.
        reply.keys = arrays.get("stream_key", np.empty(0)).ravel().tolist()
        self._server.submit(tensors.parse_requests(arrays), reply)
