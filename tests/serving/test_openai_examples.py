"""The programs of docs/openai.md as written, and hostile clients, on an engine that answers with
calls."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import descendants, free_ports, generate_replay, launched

pytestmark = pytest.mark.triton
ROOT = Path(__file__).parents[2]
QUESTION = "What is the weather in Seoul?"
DOCUMENTATION = (ROOT / "docs" / "openai.md").read_text()
#: test_openai_guides runs the one for structured output, which needs an engine with guides.
TOOLS, _, STREAM = re.findall(r"^```python\n(.*?)^```", DOCUMENTATION, re.MULTILINE | re.DOTALL)
(CURL,) = re.findall(r"^\$ (curl (?:.*\\\n)*.*)$", DOCUMENTATION, re.MULTILINE)


@dataclass
class FrontEnd:
    port: int
    process: int

    @property
    def megabytes(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def ask(self, **more: Any) -> tuple[int, Any]:
        body = {"model": "ensemble", "messages": [{"role": "user", "content": QUESTION}], **more}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            response = connection.getresponse()
            return response.status, json.load(response)

    def send(self, body: dict[str, Any], part: int | None = None, buffer: int = 0) -> socket.socket:
        """A connection that has sent the first *part* bytes of a request, and reads nothing."""
        data = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n"
        connection = socket.socket()
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(head.encode() + data[:part])
        return connection


@pytest.fixture(scope="module")
def front_end(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEnd]:
    folder = tmp_path_factory.mktemp("openai-examples")
    tokenizer = folder / "tokenizer"
    shutil.copytree(bpe_dir, tokenizer)
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    template = ROOT / "scripts" / "clients.d" / "scripted.jinja"
    config["chat_template"] = template.read_text()
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config))
    (port,) = free_ports(1)
    repository = generate_replay(folder / "repo", tokenizer)
    with launched(repository, folder, "--openai-port", str(port)) as server:
        (process,) = (
            each for each in descendants(server.process.pid)
            if b"trt_tokenizers.cli.openai" in Path(f"/proc/{each}/cmdline").read_bytes()
        )  # fmt: skip
        yield FrontEnd(port, process)


def run(front_end: FrontEnd, *command: str) -> str:
    at_port = [word.replace("localhost:9000", f"127.0.0.1:{front_end.port}") for word in command]
    return subprocess.run(at_port, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize(
    ("program", "answer"),
    [
        (TOOLS, f"Sunny in {QUESTION}.: The capital of France"),
        (STREAM, "Hi!: The capital"),
    ],
    ids=["tools", "stream"],
)
def test_a_python_program_of_the_documentation(
    front_end: FrontEnd, program: str, answer: str
) -> None:
    assert answer in run(front_end, sys.executable, "-c", program)


def test_the_curl_command_of_the_documentation(front_end: FrontEnd) -> None:
    answer = json.loads(run(front_end, "bash", "-c", CURL))
    assert answer["choices"][0]["message"]["content"] == "Hi!: The capital of France is Paris."


def test_ten_thousand_tools_are_served(front_end: FrontEnd) -> None:
    function = {"description": "a" * 50, "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": {"name": f"f{n}", **function}} for n in range(10_000)]
    status, answer = front_end.ask(tools=tools, max_tokens=200)
    assert status == 200
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f0"


def test_clients_that_hang_up_or_read_nothing_take_no_memory_for_good(front_end: FrontEnd) -> None:
    """Memory after three times as many as before is the same; a neighbour is served."""
    long = {"model": "ensemble", "prompt": "a word " * 1000, "max_tokens": 6000, "stream": True}
    readers = [front_end.send(long, buffer=4096) for _ in range(20)]
    used = []
    for _ in range(4):
        hanging = [front_end.send(long, part=300 if n % 3 == 0 else None) for n in range(200)]
        for connection in hanging:
            connection.close()
        began = time.monotonic()
        status, _ = front_end.ask()
        assert status == 200
        assert time.monotonic() - began < 20
        used.append(front_end.megabytes)
    for connection in readers:
        connection.close()
    assert used[-1] - used[0] < 25, used
