"""The OpenAI-compatible front end on SmolLM2, asked by OpenAI's own Python library."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from harness import Server, free_ports, generate_replay, launched

pytestmark = [
    pytest.mark.triton,
    pytest.mark.model,
    pytest.mark.skipif(
        "TRT_TOKENIZERS_VERIFY" in os.environ,
        reason="not applicable: the front end does not see engines",
    ),
]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
FRANCE: dict[str, Any] = {"model": "ensemble", "messages": QUESTION, "temperature": 0}
ANSWER = "The capital of France is Paris."
COUNT: dict[str, Any] = {
    "model": "ensemble", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 24,
}  # fmt: skip


@pytest.fixture(scope="module")
def port(openai_port: int) -> int:
    return openai_port


@pytest.fixture(scope="module")
def server(generated: Server) -> Server:
    return generated


@pytest.fixture(scope="module")
def client(server: Server, port: int) -> Iterator[OpenAI]:
    with library(port) as client:
        yield client


def library(port: int) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0)


def post(port: int, path: str, body: Any) -> Any:
    data = json.dumps(body).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=data) as response:
        return json.load(response)


def test_a_whole_answer_is_the_ensembles(client: OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(**FRANCE)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    expected = server.ask({"messages": json.dumps(QUESTION)})
    assert answer.usage.prompt_tokens == expected["num_input_tokens"] == 37
    assert answer.usage.completion_tokens == expected["num_output_tokens"] == 7


def test_a_stream_is_the_same(client: OpenAI) -> None:
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**FRANCE, stream=True, stream_options=options))
    texts = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert len(texts) == 7
    assert "".join(texts) == ANSWER
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 44


def test_models_and_health(client: OpenAI, port: int) -> None:
    assert [model.id for model in client.models.list()] == ["ensemble"]
    for path in ("/health/live", "/health/ready"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as response:
            assert response.status == 200


def test_length_stop_and_their_usage(client: OpenAI) -> None:
    cut = client.chat.completions.create(**FRANCE, max_completion_tokens=3)
    assert cut.choices[0].finish_reason == "length"
    assert cut.choices[0].message.content == "The capital of"
    stopped = client.chat.completions.create(**FRANCE, stop=["zzz", " France"])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == "The capital of"


def test_several_answers_have_the_seeds_that_follow(client: OpenAI) -> None:
    def texts(**more: Any) -> list[str]:
        answer = client.completions.create(**{**COUNT, "temperature": 1.0, **more})
        return [choice.text for choice in answer.choices]

    alone = [texts(seed=seed)[0] for seed in (7, 8, 9)]
    assert len(set(alone)) == 3
    assert texts(seed=7, n=3) == alone


def test_several_prompts(client: OpenAI) -> None:
    prompts = ["Once upon a time", "def fibonacci(n):"]
    both = client.completions.create(**{**COUNT, "prompt": prompts})
    alone = [client.completions.create(**{**COUNT, "prompt": prompt}) for prompt in prompts]
    assert [c.text for c in both.choices] == [a.choices[0].text for a in alone]
    assert both.usage is not None
    assert both.usage.prompt_tokens == sum(a.usage.prompt_tokens for a in alone if a.usage)


def test_log_probs_have_the_bytes_of_the_text(client: OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(**FRANCE, logprobs=True)
    log_probs = answer.choices[0].logprobs
    assert log_probs is not None
    assert log_probs.content is not None
    assert b"".join(bytes(each.bytes or []) for each in log_probs.content).decode() == ANSWER
    expected = server.ask({"messages": json.dumps(QUESTION), "return_log_probs": True})
    got = [each.logprob for each in log_probs.content]
    assert got == pytest.approx(expected["output_log_probs"][: len(got)], abs=1e-3)


def test_logit_bias_is_by_token_id(client: OpenAI, port: int) -> None:
    (paris,) = post(port, "/tokenize", {"prompt": " Paris"})["tokens"]
    answer = client.chat.completions.create(**FRANCE, logit_bias={str(paris): -100})
    assert "Paris" not in str(answer.choices[0].message.content)


def test_tokens_and_prompts(client: OpenAI, port: int) -> None:
    rendered = post(port, "/render", {"messages": QUESTION})
    tokenized = post(port, "/tokenize", {"messages": QUESTION})
    assert tokenized == {"count": 37, "max_model_len": 8192, "tokens": rendered["token_ids"]}
    assert rendered["prompt"].endswith("?<|im_end|>\n<|im_start|>assistant\n")
    ids = rendered["token_ids"]
    assert post(port, "/detokenize", {"tokens": ids}) == {"prompt": rendered["prompt"]}
    answer = post(port, "/detokenize", {"tokens": ids, "return_bytes": True})
    assert [token["id"] for token in answer["tokens"]] == ids
    assert (
        bytes(b for token in answer["tokens"] for b in token["bytes"]).decode()
        == (rendered["prompt"])
    )


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "max_tokens": ({"max_tokens": 9000}, "may be at most"),
    "messages": ({"messages": [{"role": "bot", "content": "x"}]}, "has the role 'bot'"),
    "logit_bias": ({"logit_bias": {"99999": 1}}, "has the token 99999"),
    "min_tokens": ({"extra_body": {"min_tokens": 5}, "max_tokens": 2}, "min_tokens is 5"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("param", BAD)
def test_an_error_is_a_400_that_names_the_field(client: OpenAI, param: str, stream: bool) -> None:
    fields, message = BAD[param]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{**FRANCE, **fields, "stream": stream})
    assert caught.value.param == param
    assert message in str(caught.value)


def test_thirty_two_streams_at_once_are_exact(client: OpenAI) -> None:
    prompts = [f"The number {n} is" for n in range(32)]

    def read(prompt: str) -> str:
        body = {**COUNT, "prompt": prompt, "max_tokens": 8}
        return "".join(c.choices[0].text for c in client.completions.create(**body, stream=True))

    with ThreadPoolExecutor(32) as pool:
        streamed = list(pool.map(read, prompts))
    whole = client.completions.create(**{**COUNT, "prompt": prompts, "max_tokens": 8})
    assert streamed == [choice.text for choice in whole.choices]


def running(server: Server) -> float:
    return server.metric("trt_tokenizers:engine_sequences_running")


def until_idle(server: Server, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while running(server):
        assert time.monotonic() < deadline
        time.sleep(0.1)


ENDLESS = {"model": "ensemble", "prompt": "Count", "max_tokens": 6000, "ignore_eos": True}


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_hang_up_leave_nothing(server: Server, port: int, stream: bool) -> None:
    """Some in the middle of their bodies, some queued; a neighbour gets its whole answer."""
    until_idle(server, 20)
    body = json.dumps({**ENDLESS, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
    for number, connection in enumerate(sockets):
        connection.sendall(head.encode() + (body[:9] if number % 3 == 0 else body))
    deadline = time.monotonic() + 20
    while running(server) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for connection in sockets:
        connection.close()
    neighbour = post(port, "/v1/chat/completions", FRANCE)
    assert neighbour["choices"][0]["message"]["content"] == ANSWER
    until_idle(server, 20)


def test_metrics_are_tritons_and_its_own(server: Server, port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        text = response.read().decode()
    assert "nv_inference_request_success" in text
    for kind in ("waiting", "scheduled"):
        line = f'nv_trt_llm_request_metrics{{model="tensorrt_llm",request_type="{kind}"}} 0'
        assert line in text, text
    assert 'trt_tokenizers_openai_requests_total{path="/v1/chat/completions",status="200"}' in text


def test_hostile_bodies_are_refused_and_the_next_client_is_served(
    server: Server, client: OpenAI, port: int
) -> None:
    tools = [{"type": "function", "function": {"name": f"f{n}"}} for n in range(10_000)]
    for body in (
        b"[" * 1_000_000,
        json.dumps({**FRANCE, "tools": tools}).encode(),
        json.dumps({**FRANCE, "messages": [{"role": "user", "content": "a" * 10**7}]}).encode(),
        json.dumps({**FRANCE, "user": "a" * (17 << 20)}).encode(),
        b'{"model": "ensemble", "messages": "\xff"}',
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request("POST", "/v1/chat/completions", body)
            assert connection.getresponse().status in (400, 413)
    assert client.chat.completions.create(**FRANCE).choices[0].message.content == ANSWER


def test_a_stop_lets_answers_end(bpe_dir: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    pace = ("--engine-parameter", "steps_per_second=20")
    repository = generate_replay(tmp_path / "repo", bpe_dir, *pace)
    texts: list[str] = []
    reasons: list[str | None] = []
    begun = threading.Event()
    body = {**COUNT, "prompt": "word " * 60, "max_tokens": 60}

    def read() -> None:
        with library(port) as client:
            for chunk in client.completions.create(**body, stream=True):
                texts.append(chunk.choices[0].text)
                reasons.append(chunk.choices[0].finish_reason)
                begun.set()

    with launched(repository, tmp_path, "--openai-port", str(port)) as server:
        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(60)
        server.process.send_signal(signal.SIGTERM)
        reader.join(60)
        server.process.wait(60)
    assert reasons[-1] == "length"
    assert len(texts) > 30
