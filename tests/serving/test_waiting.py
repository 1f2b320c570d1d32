"""Whole answers without decoupled responses, and requests that wait, on the real Triton."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from harness import Server, generate_replay, joined, launched, stub, tensors
from launching import until
from nvidia_client import EngineClient, infer
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.registry import create

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def whole(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("whole")
    repository = generate_replay(folder / "repo", bpe_dir, "--set", "decoupled_mode=false")
    with launched(repository, folder) as server:
        yield server


def http_tensors(text: str) -> list[Any]:
    made = []
    for name, kind, value in (
        ("text_input", "BYTES", np.array([[text]], object)),
        ("max_tokens", "INT32", np.array([[99]], np.int32)),
    ):
        made.append(httpclient.InferInput(name, value.shape, kind))
        made[-1].set_data_from_numpy(value)
    return made


def test_infer_gives_whole_answers(whole: Server) -> None:
    """HTTP and gRPC, several at once: no request waits for another one's answer."""
    texts = [f"{'word ' * n}{n} 世界" for n in range(16)]
    with httpclient.InferenceServerClient(
        whole.http.removeprefix("http://"), concurrency=8
    ) as client:
        running = [client.async_infer("ensemble", http_tensors(text)) for text in texts]
        got = [each.get_result().as_numpy("text_output").item().decode() for each in running]
    assert got == texts
    for module in (httpclient, grpcclient):
        text = infer(whole, module, "1.2", text_input=texts[3], max_tokens=99)
        assert text.shape == (1,)
        assert text[0].decode() == texts[3]
    body = {"text_input": texts[5], "max_tokens": 99}
    with grpcclient.InferenceServerClient(whole.grpc) as client:
        answer = client.infer("ensemble", tensors(body))
        assert answer.as_numpy("text_output").item().decode() == texts[5]
        with pytest.raises(InferenceServerException, match=r"stream is true.*decoupled_mode") as no:
            client.infer("ensemble", tensors({**body, "stream": True}))
        assert no.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert whole.ask(body)["text_output"] == texts[5]
    until(lambda: whole.contexts() == 0)


def test_a_client_like_nvidias_asks_the_engine(whole: Server, bpe_dir: Path) -> None:
    """By ModelInfer: ids in, ids out, with TensorRT-LLM's shapes."""
    ids = list(create(TokenizerSettings(str(bpe_dir))).encode("one two 世界"))
    answer = EngineClient(whole.grpc, "1.2").ask(
        ids, end_id=2, pad_id=2, output_len=99, exclude_input_in_output=True
    )
    assert answer.ids == [ids]
    (arrays,) = answer.responses
    assert arrays["sequence_length"].tolist() == [[len(ids)]]
    assert arrays["output_ids"].shape == (1, 1, len(ids))


def hang_up(server: Server, body: dict[str, Any]) -> None:
    """Send a request and close the connection before any answer."""
    host, _, port = server.http.removeprefix("http://").partition(":")
    data = json.dumps(body).encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /v2/models/ensemble/generate_stream HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        time.sleep(0.5)


def test_streams_that_nobody_waits_for_leave_the_queue(bpe_dir: Path, tmp_path: Path) -> None:
    """The engine makes a step every 50 s, so all but the first request wait."""
    slow = ("--engine-parameter", "steps_per_second=0.02")
    repository = generate_replay(tmp_path / "repo", bpe_dir, *slow)
    with launched(repository, tmp_path) as server, ThreadPoolExecutor(50) as pool:
        server.ask({"text_input": "one", "max_tokens": 9})
        body = {"text_input": "one two", "max_tokens": 99, "stream": True}
        list(pool.map(lambda _: hang_up(server, body), range(150)))
        until(lambda: server.contexts() == 0, 8)
        list(pool.map(lambda _: hang_up(server, body), range(100)))
        started = time.monotonic()
    assert time.monotonic() - started < 15, "less than the drain, which would wait 20 s for them"


def test_clients_that_wait_get_their_answer_only(bpe_dir: Path, tmp_path: Path) -> None:
    """The engine makes a step every 4 s; meanwhile streams get empty chunks."""
    slow = ("--engine-parameter", "steps_per_second=0.25", "--set", "max_queue_size=150")
    repository = generate_replay(tmp_path / "repo", bpe_dir, *slow)
    with launched(repository, tmp_path) as server, ThreadPoolExecutor(1) as pool:
        server.ask({"text_input": "one", "max_tokens": 9})
        bodies = [{"text_input": f"one {n}", "max_tokens": 9, "stream": n > 99} for n in range(150)]
        waiting = pool.submit(server.streams, bodies)
        time.sleep(1)
        status, answer = server.generate({"text_input": "x", "max_tokens": 9})
        assert status == 400, "the generate endpoint of Triton makes every error a 400"
        assert "150 sequences and takes at most 150, by max_queue_size; try" in answer["error"]
        answers = waiting.result()
        assert [joined(chunks) for chunks in answers] == [body["text_input"] for body in bodies]
        assert {len(chunks) for chunks in answers[:100]} == {1}
        status, answer = server.generate(bodies[0])
        assert (status, answer["text_output"]) == (200, "one 0")


def test_answers_that_fail_on_the_way_delay_no_stop(bpe_dir: Path, tmp_path: Path) -> None:
    """Triton itself would count some of them as running for ever, all the more if postprocessing is
    slow: here it gets no processor for a while."""
    fails = ("--engine-parameter", "fails_after=20", "--set", "max_tokens_per_chunk=1")
    repository = generate_replay(tmp_path / "repo", bpe_dir, *fails)
    body = {"text_input": "one two " * 20, "max_tokens": 99, "stream": True}
    with launched(repository, tmp_path) as server, ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(server.sse, body) for _ in range(160)]
        slow = stub(server.process.pid, "postprocessing")
        assert slow is not None
        for _ in range(10):
            os.kill(slow, signal.SIGSTOP)
            time.sleep(0.2)
            os.kill(slow, signal.SIGCONT)
            time.sleep(0.05)
        answers = [each.result() for each in asked]
        assert all("this answer fails" in answer[-1]["error"] for answer in answers)
        until(lambda: server.contexts() == 0, 2)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 15, "the exit timeout is 20 s"
