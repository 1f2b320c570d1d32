"""The three Triton models. The only file that imports triton_python_backend_utils.

Tensors become dataclasses here and dataclasses tensors; everything else happens in
`preprocess`, `postprocess` and `engines`. A request that is wrong gets one error response with
the right status; the other requests of its batch are served.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from trt_tokenizers.engines import tensors
from trt_tokenizers.engines.base import Engine
from trt_tokenizers.engines.serving import Server
from trt_tokenizers.errors import EngineError, RequestError, SettingsError, TrtTokenizersError
from trt_tokenizers.plugins import find_plugin
from trt_tokenizers.postprocess import EngineStep, Postprocessor
from trt_tokenizers.preprocess import Preprocessor, TextRequest
from trt_tokenizers.streams import ContextStore, FinishReason

ENGINES = "trt_tokenizers.engines"

Args = dict[str, str]


class _TritonLog(logging.Handler):
    """Sends this package's log lines to Triton's log."""

    def emit(self, record: logging.LogRecord) -> None:
        log = pb_utils.Logger
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            log.log_error(text)
        elif record.levelno >= logging.WARNING:
            log.log_warn(text)
        else:
            log.log_info(text)


def _start(args: Args) -> tuple[dict[str, str], str]:
    """The model's parameters and its name for error messages; log lines go to Triton."""
    logger = logging.getLogger("trt_tokenizers")
    if not any(isinstance(handler, _TritonLog) for handler in logger.handlers):
        logger.addHandler(_TritonLog())
        logger.setLevel(logging.INFO)
        logger.propagate = False
    config = json.loads(args["model_config"])
    # An empty value is one that was not set; engines do not see the parameters of others.
    parameters = {
        k: v["string_value"] for k, v in config.get("parameters", {}).items() if v["string_value"]
    }
    # Triton's own, for every Python model.
    parameters.pop("FORCE_CPU_ONLY_INPUT_TENSORS", None)
    parameters.pop("EXECUTION_ENV_PATH", None)
    return parameters, f"model {args['model_name']!r}, config.pbtxt"


def _array(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _column(request: Any, name: str) -> list[Any] | None:
    """One scalar per row of the batch, or None if the client did not send the input."""
    array = _array(request, name)
    if array is None:
        return None
    if array.size != len(array):
        raise RequestError(f"{name} has the shape {list(array.shape)}; send one value per row")
    values: list[Any] = array.ravel().tolist()
    return values


def _rows(request: Any, name: str) -> list[list[Any]] | None:
    array = _array(request, name)
    return None if array is None else array.reshape(len(array), -1).tolist()


def _failure(error: Exception) -> Any:
    """The error response: 400 for what the client can mend, 500 for the rest."""
    if isinstance(error, RequestError):
        triton_error = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    else:
        if not isinstance(error, TrtTokenizersError):
            logging.getLogger(__name__).error("unexpected error", exc_info=error)
        text = str(error) or type(error).__name__
        triton_error = pb_utils.TritonError(text, pb_utils.TritonError.INTERNAL)
    return pb_utils.InferenceResponse(output_tensors=[], error=triton_error)


def _strings(values: list[list[str]]) -> Any:
    return np.array([[v.encode() for v in row] for row in values], dtype=np.object_)


def _response(arrays: Mapping[str, Any]) -> Any:
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(name, array) for name, array in arrays.items()]
    )


class PreprocessingModel:
    """text_input or messages -> input ids."""

    def initialize(self, args: Args) -> None:
        parameters, where = _start(args)
        self._contexts = ContextStore()
        self._preprocessor = Preprocessor.from_parameters(parameters, where, self._contexts)

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            try:
                responses.append(self._serve(request))
            except Exception as error:
                responses.append(_failure(error))
        return responses

    def _serve(self, request: Any) -> Any:
        first = next(iter(request.inputs()))
        r = self._preprocessor.process(
            TextRequest(
                rows=len(first.as_numpy()),
                text_input=_column(request, "QUERY"),
                messages=_column(request, "MESSAGES"),
                max_tokens=_column(request, "REQUEST_OUTPUT_LEN"),
                stop_words=_rows(request, "STOP_WORDS_DICT"),
                bad_words=_rows(request, "BAD_WORDS_DICT"),
                end_id=_column(request, "END_ID"),
                pad_id=_column(request, "PAD_ID"),
                exclude_input_in_output=_column(request, "EXCLUDE_INPUT_IN_OUTPUT"),
                skip_special_tokens=_column(request, "SKIP_SPECIAL_TOKENS"),
                include_stop_str_in_output=_column(request, "INCLUDE_STOP_STR_IN_OUTPUT"),
                parameters=json.loads(request.parameters() or "{}"),
            )
        )
        return _response(
            {
                "INPUT_ID": r.input_ids,
                "REQUEST_INPUT_LEN": r.input_lengths,
                "REQUEST_OUTPUT_LEN": r.request_output_len,
                "STOP_WORDS_IDS": r.stop_words,
                "BAD_WORDS_IDS": r.bad_words,
                "OUT_END_ID": r.end_id,
                "OUT_PAD_ID": r.pad_id,
                "STREAM_KEY": r.stream_key,
            }
        )

    def finalize(self) -> None:
        self._contexts.close()


class PostprocessingModel:
    """The engine's ids -> text."""

    def initialize(self, args: Args) -> None:
        parameters, where = _start(args)
        self._contexts = ContextStore()
        self._postprocessor = Postprocessor.from_parameters(parameters, where, self._contexts)

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            try:
                responses.append(self._serve(request))
            except Exception as error:
                responses.append(_failure(error))
        return responses

    def _serve(self, request: Any) -> Any:
        ids = _array(request, "TOKENS_BATCH")  # [rows, 1, n]
        lengths = _array(request, "SEQUENCE_LENGTH")
        keys = _column(request, "STREAM_KEY")
        finish = _column(request, "FINISH_REASON")
        steps = [
            self._postprocessor.process(
                EngineStep(
                    key=keys[row] if keys else None,
                    token_ids=(
                        ids[row, 0] if lengths is None else ids[row, 0, : lengths[row, 0]]
                    ).tolist(),
                    finish_reason=FinishReason(finish[row] if finish else 0),
                )
            )
            for row in range(len(ids))
        ]
        return _response(
            {
                "OUTPUT": _strings([[step.text] for step in steps]),
                "OUT_FINISH_REASON": _strings([[step.finish_reason] for step in steps]),
                "NUM_INPUT_TOKENS": np.array(
                    [[step.num_input_tokens] for step in steps], dtype=np.int32
                ),
                "NUM_OUTPUT_TOKENS": np.array(
                    [[step.num_output_tokens] for step in steps], dtype=np.int32
                ),
            }
        )

    def finalize(self) -> None:
        self._contexts.close()


class _TritonReply:
    """Sends the responses of one request through Triton's response sender."""

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()

    def send(self, arrays: dict[str, Any], *, final: bool) -> None:
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        self._sender.send(_response(arrays), flags=flags)

    def fail(self, error: Exception) -> None:
        self._sender.send(_failure(error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())


class EngineModel:
    """A Python engine in the place of TensorRT-LLM's C++ backend; decoupled."""

    def initialize(self, args: Args) -> None:
        parameters, where = _start(args)
        name = parameters.pop("engine", "")
        if not name:
            raise SettingsError(f"{where}: parameter 'engine' has no value; it must name an engine")
        max_tokens_per_chunk = parameters.pop("max_tokens_per_chunk", "0")
        if not max_tokens_per_chunk.isdecimal():
            raise SettingsError(
                f"{where}: parameter 'max_tokens_per_chunk' is {max_tokens_per_chunk!r}; "
                "expected a whole number"
            )
        self._contexts = ContextStore()
        factory = find_plugin(ENGINES, name, "engine", EngineError)
        engine: Engine = factory(parameters)
        self._server = Server(engine, int(max_tokens_per_chunk))

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            reply = _TritonReply(request)
            try:
                self._serve(request, reply)
            except Exception as error:
                reply.fail(error)

    def _serve(self, request: Any, reply: _TritonReply) -> None:
        arrays = {}
        for tensor in request.inputs():
            arrays[tensor.name()] = tensor.as_numpy()
        try:
            self._server.submit(tensors.parse_requests(arrays), reply)
        except Exception:
            # Postprocessing will see nothing of these streams.
            for key in arrays.get("stream_key", np.empty(0)).ravel().tolist():
                self._contexts.discard(key)
            raise

    def finalize(self) -> None:
        self._server.stop()
