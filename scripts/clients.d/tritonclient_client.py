"""NVIDIA's tritonclient: streams of a decoupled ensemble, infer() of one that is not."""

import asyncio
import queue
from typing import Any

import numpy as np
import tritonclient.grpc.aio as grpc_aio
from report import Report, run
from tritonclient import grpc, http
from tritonclient.utils import np_to_triton_dtype

MODEL = "ensemble"


def inputs(module: Any, prompt: str, stream: bool) -> list[Any]:
    arrays = {
        "text_input": np.array([[prompt.encode()]], dtype=object),
        "max_tokens": np.array([[12]], dtype=np.int32),
        "stream": np.array([[stream]]),
    }
    made = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def text(result: Any) -> str:
    """The first element is the text, as in NVIDIA's examples; a last response may be empty."""
    output = result.as_numpy("text_output")
    return "" if output is None else output[0].decode()


def whole_http(report: Report) -> str:
    with http.InferenceServerClient(report.http) as client:
        return text(client.infer(MODEL, inputs(http, report.prompt, False)))


def whole_grpc(report: Report) -> str:
    with grpc.InferenceServerClient(report.grpc) as client:
        return text(client.infer(MODEL, inputs(grpc, report.prompt, False)))


async def whole_aio(report: Report) -> str:
    async with grpc_aio.InferenceServerClient(report.grpc) as client:
        return text(await client.infer(MODEL, inputs(grpc_aio, report.prompt, False)))


def streamed_grpc(report: Report) -> str:
    results: queue.Queue[Any] = queue.Queue()
    with grpc.InferenceServerClient(report.grpc) as client:
        client.start_stream(callback=lambda result, error: results.put((result, error)))
        client.async_stream_infer(MODEL, inputs(grpc, report.prompt, True))
        client.stop_stream()
    return "".join(_text(*results.get()) for _ in range(results.qsize()))


def _text(result: Any, error: Any) -> str:
    if error is not None:
        raise error
    return text(result)


async def streamed_aio(report: Report) -> str:
    async def requests() -> Any:
        yield {"model_name": MODEL, "inputs": inputs(grpc_aio, report.prompt, True)}

    async with grpc_aio.InferenceServerClient(report.grpc) as client:
        responses = client.stream_infer(requests())
        return "".join([_text(result, error) async for result, error in responses])


def program(report: Report) -> None:
    if report.decoupled:
        report.ask("gRPC stream", lambda: streamed_grpc(report))
        report.ask("gRPC aio stream", lambda: asyncio.run(streamed_aio(report)))
    else:
        report.ask("HTTP infer", lambda: whole_http(report))
        report.ask("gRPC infer", lambda: whole_grpc(report))
        report.ask("gRPC aio infer", lambda: asyncio.run(whole_aio(report)))


run(program, "tritonclient")
