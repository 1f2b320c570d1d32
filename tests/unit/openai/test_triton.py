"""The connection to Triton, against a gRPC server in the same event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc.aio
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from trt_tokenizers.openai.api_error import ApiError
from trt_tokenizers.openai.triton import Triton

OUTPUTS = ("text_output", "finish_reason")


def response(text: str, finish: str = "") -> Any:
    message = service_pb2.ModelStreamInferResponse()
    for name, value in zip(OUTPUTS, (text, finish), strict=True):
        message.infer_response.outputs.add(name=name, datatype="BYTES", shape=[1, 1])
        raw = len(value).to_bytes(4, "little") + value.encode()
        message.infer_response.raw_output_contents.append(raw)
    return message


class Ensemble(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Sends *responses*, then goes on for a moment as an engine that was asked to stop."""

    def __init__(self, *responses: Any) -> None:
        self.responses = responses
        self.ends: asyncio.Queue[str] = asyncio.Queue()

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        answer = service_pb2.ModelConfigResponse()
        answer.config.input.add(name="text_input", data_type="TYPE_STRING")
        for name in OUTPUTS:
            answer.config.output.add(name=name, data_type="TYPE_STRING")
        return answer

    async def ModelStreamInfer(  # noqa: N802
        self, requests: Any, context: Any
    ) -> AsyncIterator[Any]:
        try:
            for each in self.responses:
                yield each
            for _ in range(3):
                await asyncio.sleep(0.02)
                yield response("late")
            await self.ends.put("ended")
        except asyncio.CancelledError:
            await self.ends.put("cancelled")
            raise


def against(ensemble: Ensemble, test: Callable[[Triton], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(ensemble, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        triton = Triton(f"127.0.0.1:{port}")
        await test(triton)
        await triton.close()
        await server.stop(None)

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_stream_whose_answer_has_ended_is_not_cancelled() -> None:
    ensemble = Ensemble(response("a"), response("b", "stop"))

    async def test(triton: Triton) -> None:
        got = [step.text async for step in triton.stream({"text_input": b"x"}, (), "1")]
        assert got == ["a", "b"]
        assert await asyncio.wait_for(ensemble.ends.get(), 5) == "ended"

    against(ensemble, test)


def test_nor_is_one_with_an_error() -> None:
    refused = service_pb2.ModelStreamInferResponse(error_message="in ensemble 'e', top_k is 0")
    ensemble = Ensemble(refused)

    async def test(triton: Triton) -> None:
        with pytest.raises(ApiError, match=r"^top_k is 0"):
            await anext(triton.stream({"text_input": b"x"}, (), "1"))
        assert await asyncio.wait_for(ensemble.ends.get(), 5) == "ended"

    against(ensemble, test)


def test_a_stream_that_is_closed_early_is_cancelled() -> None:
    ensemble = Ensemble(response("a"), response("b"))

    async def test(triton: Triton) -> None:
        steps = triton.stream({"text_input": b"x"}, (), "1")
        assert (await anext(steps)).text == "a"
        await steps.aclose()
        assert await asyncio.wait_for(ensemble.ends.get(), 5) == "cancelled"

    against(ensemble, test)
