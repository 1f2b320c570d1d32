"""The OpenAI-compatible front end is started, watched and stopped with the server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import free_ports
from launching import Launch, Start, starting
from trt_tokenizers.launcher.process_tree import running_with


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with starting(tmp_path) as start:
        yield start


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def front_end(launch: Launch, port: int) -> int:
    (pid,) = running_with("trt_tokenizers.cli.openai\0") & running_with(f"\0{port}\0")
    assert pid != launch.process.pid
    return pid


def status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_it_listens_when_the_launch_is_ready_and_ends_with_it(start: Start, port: int) -> None:
    launch = start("--openai-port", str(port)).until_ready()
    assert json.loads(launch.ready.read_text())["openai"] == f"http://127.0.0.1:{port}/v1"
    assert f"launch:   OpenAI   http://127.0.0.1:{port}/v1" in launch.said()
    assert status(port, "/health/live") == 200
    assert status(port, "/health/ready") == 503  # the fake server has no gRPC
    launch.process.terminate()
    assert launch.ended() == 0
    assert running_with("trt_tokenizers.cli.openai\0") & running_with(f"\0{port}\0") == set()


def test_its_end_is_a_failure_of_the_launch(start: Start, port: int) -> None:
    launch = start("--openai-port", str(port)).until_ready()
    os.kill(front_end(launch, port), signal.SIGKILL)
    assert launch.ended() == 1
    assert launch.said()[-1] == "error: the OpenAI front end ended (SIGKILL)"


def test_a_taken_port_is_told(start: Start, port: int) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", port))):
        launch = start("--openai-port", str(port))
        assert launch.process.wait(timeout=30) == 1
    (line,) = launch.said()
    assert line.startswith(f"error: --openai-port {port} is in use by pid {os.getpid()} (")
