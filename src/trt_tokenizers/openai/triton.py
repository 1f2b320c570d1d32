"""The connection to Triton: one gRPC stream a request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trt_tokenizers.openai.api_error import ApiError
from trt_tokenizers.openai.tensors import Step, pack, step_of

# Errors of streams have codes if the client sends the metadata triton_grpc_error, but with it
# Triton 24.10 ends with SIGSEGV after about a thousand errors.
#: Text in an error of a stream -> HTTP status; the first that is there counts, else 400. The first
#: two are our models' words, the others Triton's own.
_WORDS = (
    ("unavailable: ", 503),
    ("internal error: ", 500),
    ("stopping", 503),
    ("maximum queue size", 503),
    ("is not ready", 503),
    ("unknown model", 503),
    ("Failed to process the request", 500),
    ("Stub process", 500),
)
#: Of calls that are no streams.
_STATUS = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 503,
}
_OPTIONS = [
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that is gone without a word is found out.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]
#: Seconds for a stream to end after its answers: the engine may not have heard of a stop string.
_END_S = 10.0
#: Outputs that a stream needs; others are asked for when a request needs them.
_ALWAYS = ("text_output", "finish_reason", "num_input_tokens", "num_output_tokens")


@dataclass(frozen=True)
class Model:
    """What a served model takes and gives: name -> Triton's type.

    Attributes:
        settings: its parameters in config.pbtxt.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)


class Triton:
    """A Triton server, or several behind one name. Use it in one event loop."""

    def __init__(self, address: str, model: str = "ensemble") -> None:
        """Connect when needed.

        Args:
            address: ``host:port``, or a name of gRPC such as ``dns:///triton:8001``; requests go to
                the servers of a name in turn.
            model: the ensemble's name.
        """
        import grpc.aio
        from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

        self._grpc: Any = grpc
        self._messages: Any = service_pb2
        self._types: Any = model_config_pb2.DataType
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        # The same bytes as of the stub's ModelStreamInfer, in fewer steps: one request a stream.
        self._infer_stream = self._channel.unary_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self.model = model
        self._models: dict[str, Model] = {}
        self._ending: dict[asyncio.Future[None], asyncio.TimerHandle] = {}

    async def close(self) -> None:
        await self._channel.close()

    async def ready(self) -> bool:
        """Whether the ensemble takes requests."""
        try:
            answer = await self._stub.ModelReady(
                self._messages.ModelReadyRequest(name=self.model), timeout=5
            )
        except self._grpc.RpcError:
            return False
        return bool(answer.ready)

    async def describe(self, name: str = "") -> Model:
        """The model *name*, by default the ensemble; asked for once.

        Raises:
            ApiError: the server does not answer, or has no such model.
        """
        name = name or self.model
        if name not in self._models:
            try:
                answer = await self._stub.ModelConfig(
                    self._messages.ModelConfigRequest(name=name), timeout=10
                )
            except self._grpc.RpcError as error:
                raise self._explained(error) from None
            config = answer.config
            self._models[name] = Model(
                {each.name: self._type(each) for each in config.input},
                {each.name: self._type(each) for each in config.output},
                {key: value.string_value for key, value in config.parameters.items()},
            )
        return self._models[name]

    async def stream(
        self, inputs: Mapping[str, Any], more_outputs: Sequence[str], request_id: str
    ) -> AsyncGenerator[Step, None]:
        """Send one request to the ensemble; its responses. Closing the iterator cancels it.

        Args:
            inputs: name -> value, see `tensors.pack`.
            more_outputs: outputs beside the usual ones.
            request_id: unique among running requests.

        Raises:
            ApiError: the request was refused or failed.
        """
        model = await self.describe()
        request = self._request(self.model, model, inputs, request_id)
        left = inputs.get("num_return_sequences", 1)
        several = ("sequence_index",) if left > 1 else ()
        for name in (*_ALWAYS, *several, *more_outputs):
            if name in model.outputs:
                request.outputs.add(name=name)
        call = self._infer_stream(request)
        try:
            async for response in call:
                if response.error_message:
                    left = 0
                    raise _error_of_stream(response.error_message)
                step = step_of(response.infer_response)
                left -= bool(step.finish_reason)
                yield step
                if not left:
                    return
        except self._grpc.RpcError as error:
            raise self._explained(error) from None
        finally:
            if left:
                call.cancel()
            else:
                self._let_end(call)

    def _let_end(self, call: Any) -> None:
        """Read *call*, whose answers have ended, to its end, for at most `_END_S`.

        Triton up to 24.11 can die of a cancel that meets the end of a request.
        """
        task = asyncio.ensure_future(self._exhaust(call))
        timer = asyncio.get_running_loop().call_later(_END_S, task.cancel)
        self._ending[task] = timer
        task.add_done_callback(lambda task: self._ending.pop(task).cancel())

    async def _exhaust(self, call: Any) -> None:
        with contextlib.suppress(self._grpc.RpcError):
            async for _ in call:
                pass

    async def infer(self, name: str, inputs: Mapping[str, Any]) -> dict[str, bytes]:
        """Send one request to the model *name*; its outputs, raw.

        Raises:
            ApiError: the request was refused or failed.
        """
        request = self._request(name, await self.describe(name), inputs, "")
        try:
            answer = await self._stub.ModelInfer(request)
        except self._grpc.RpcError as error:
            raise self._explained(error) from None
        names = [output.name for output in answer.outputs]
        return dict(zip(names, answer.raw_output_contents, strict=True))

    def _request(self, name: str, model: Model, inputs: Mapping[str, Any], request_id: str) -> Any:
        request = self._messages.ModelInferRequest(model_name=name, id=request_id)
        pack(request, inputs, model.inputs)
        return request

    def _type(self, tensor: Any) -> str:
        name: str = self._types.Name(tensor.data_type).removeprefix("TYPE_")
        return "BYTES" if name == "STRING" else name

    def _explained(self, error: Any) -> ApiError:
        code = error.code().name
        if code == "UNAVAILABLE":
            self._models.clear()  # the next server may be another one
        message = _for_clients(str(error.details()))
        return ApiError(_STATUS.get(code, 500), message or f"the server ended the stream: {code}")


def _error_of_stream(text: str) -> ApiError:
    message = _for_clients(text)
    status = next((status for words, status in _WORDS if words in message), 400)
    return ApiError(status, message.removeprefix("unavailable: ").removeprefix("internal error: "))


def _for_clients(text: str) -> str:
    """*text* in one line, without the ensemble's name, which Triton puts before it."""
    line = " ".join(text.split())
    return line.partition("', ")[2] if line.startswith("in ensemble ") else line
