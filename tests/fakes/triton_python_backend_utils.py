"""A double of the module that Triton's Python backend gives to its models.

It has what this package uses, and refuses what the real module refuses. `AGE` is the Triton
version that it imitates: from 25.02 on responses have parameters. It has no shared memory;
`LIVE_METRICS` shows which metric objects would outlive that memory.
"""

from __future__ import annotations

import json
import queue
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

AGE = (25, 2)
#: Answers the requests that a model sends to another: model name -> function.
MODELS: dict[str, Callable[[InferenceRequest], Iterator[InferenceResponse]]] = {}
LIVE_METRICS: weakref.WeakSet[Any] = weakref.WeakSet()

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1

_NUMPY = {
    "TYPE_BOOL": np.bool_, "TYPE_STRING": np.object_,
    "TYPE_UINT8": np.uint8, "TYPE_UINT16": np.uint16, "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64, "TYPE_INT8": np.int8, "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32, "TYPE_INT64": np.int64, "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32, "TYPE_FP64": np.float64,
}  # fmt: skip


def triton_string_to_numpy(triton_type: str) -> Any:
    return _NUMPY[triton_type]


class TritonModelException(Exception):  # noqa: N818 - its real name
    """An error of Triton's own."""


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED = range(6)
    ALREADY_EXISTS, CANCELLED = 6, 7

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class Tensor:
    def __init__(self, name: str, array: np.ndarray[Any, Any]) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"tensor {name!r} is no numpy array: {array!r}")
        if array.dtype.type not in _NUMPY.values():
            raise TritonModelException(f"tensor {name!r} has an unsupported type: {array.dtype}")
        if array.dtype == np.object_:  # as bytes, the way it would arrive
            flat = [v if isinstance(v, bytes) else str(v).encode() for v in array.ravel()]
            array = np.array(flat, dtype=np.object_).reshape(array.shape)
        self._name, self._array = name, np.ascontiguousarray(array)

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self._array


class InferenceResponse:
    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | None = None,
        **more: Any,
    ) -> None:
        if more.keys() - ({"parameters"} if AGE >= (25, 2) else set()):
            raise TypeError("__init__(): incompatible constructor arguments")
        for name, value in (more.get("parameters") or {}).items():
            if type(value) not in (int, str, bool):
                raise TritonModelException(f"parameter {name!r} has an unsupported type")
        self._outputs, self._error = list(output_tensors), error
        self._parameters = json.dumps(more.get("parameters") or {})

    def output_tensors(self) -> list[Tensor]:
        return self._outputs

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        return self._parameters


class ResponseSender:
    """Sends the responses to one request. The test reads `sent`: responses and flags."""

    def __init__(self, request: InferenceRequest) -> None:
        self._request = request
        self._closed = False
        self.sent: queue.SimpleQueue[tuple[InferenceResponse | None, int]] = queue.SimpleQueue()

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException("Unable to send response. Unsupported flag.")
        if response is None and not flags:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        if self._closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        self._closed = bool(flags)
        self.sent.put((response, flags))

    def is_cancelled(self) -> bool:
        return self._request.is_cancelled()


class InferenceRequest:
    def __init__(
        self,
        inputs: Sequence[Tensor] = (),
        request_id: str = "",
        correlation_id: int = 0,
        requested_output_names: Sequence[str] = (),
        model_name: str = "",
        flags: int = 0,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        self._inputs, self._request_id, self._correlation_id = (
            list(inputs),
            request_id,
            correlation_id,
        )
        self._names, self._model_name, self._flags = set(requested_output_names), model_name, flags
        self._parameters = json.dumps(parameters or {})
        self._sender = ResponseSender(self)
        self.cancelled = False  # set by the test

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        return self._request_id

    def correlation_id(self) -> int:
        return self._correlation_id

    def flags(self) -> int:
        return self._flags

    def parameters(self) -> str:
        return self._parameters

    def requested_output_names(self) -> set[str]:
        return self._names

    def is_cancelled(self) -> bool:
        return self.cancelled

    def get_response_sender(self) -> ResponseSender:
        return self._sender

    def exec(self, decoupled: bool = False) -> Any:
        if self._model_name not in MODELS:
            raise TritonModelException(f"Failed to get the model {self._model_name!r}")
        responses = MODELS[self._model_name](self)
        return responses if decoupled else next(iter(responses))


class Metric:
    def __init__(self, kind: str, labels: dict[str, str], buckets: list[float] | None) -> None:
        if (kind == "histogram") != (buckets is not None):
            raise TritonModelException("buckets are for histograms, which need them")
        self._kind, self.labels = kind, labels
        self._value, self.observed = 0.0, list[float]()
        LIVE_METRICS.add(self)

    def _must_be(self, *kinds: str) -> None:
        if self._kind not in kinds:
            raise TritonModelException("Unsupported metric operation")

    def increment(self, value: float) -> None:
        self._must_be("counter", "gauge")
        if value < 0 and self._kind == "counter":
            raise TritonModelException("TRITONSERVER_METRIC_KIND_COUNTER can only be incremented")
        self._value += value

    def set(self, value: float) -> None:
        self._must_be("gauge")
        self._value = value

    def observe(self, value: float) -> None:
        self._must_be("histogram")
        self.observed.append(value)

    def value(self) -> float:
        return self._value


class MetricFamily:
    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name, self._kind = name, kind
        self.metrics: weakref.WeakSet[Metric] = weakref.WeakSet()
        LIVE_METRICS.add(self)

    def Metric(  # noqa: N802
        self, labels: dict[str, str] | None = None, buckets: list[float] | None = None
    ) -> Metric:
        metric = Metric(self._kind, labels or {}, buckets)
        self.metrics.add(metric)
        return metric


class Logger:
    lines: ClassVar[list[str]] = []

    @classmethod
    def log_info(cls, message: str) -> None:
        cls.lines.append(f"I {message}")

    @classmethod
    def log_warn(cls, message: str) -> None:
        cls.lines.append(f"W {message}")

    @classmethod
    def log_error(cls, message: str) -> None:
        cls.lines.append(f"E {message}")
