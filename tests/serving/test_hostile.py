"""launch_server on the real Triton: hostile bodies, and stubs without a processor."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import Server, free_ports, generate_replay, launched, shm_names, stub
from launching import until

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def repository(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_replay(tmp_path_factory.mktemp("hostile") / "repo", bpe_dir)


@pytest.fixture(scope="module")
def server(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bodies")
    with launched(generate_replay(folder / "repo", bpe_dir), folder) as server:
        yield server


def form(size: int) -> dict[str, Any]:
    return {"body": b'{"text_input": "' + b"x" * size + b'"}', "headers": {
        "Content-Type": "application/x-www-form-urlencoded"}}  # fmt: skip


BODIES: dict[str, dict[str, Any]] = {
    "a form of 5 MB": form(5_000_000),
    "a form of 60 MB": form(60_000_000),
    "JSON nested a million deep": {"body": b"[" * 1_000_000 + b"]" * 1_000_000},
    "JSON nested 5 million deep": {"body": b"[" * 5_000_000 + b"]" * 5_000_000},
    "objects nested a million deep": {"body": b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000},
    "600,000 chunks": {
        "body": itertools.repeat(b"x", 600_000), "headers": {"Transfer-Encoding": "chunked"},
        "encode_chunked": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_a_large_body_is_answered(server: Server, name: str) -> None:
    connection = http.client.HTTPConnection(server.http.removeprefix("http://"), timeout=120)
    with contextlib.closing(connection):
        connection.request("POST", "/v2/models/ensemble/generate", **BODIES[name])
        response = connection.getresponse()
        response.read()
    assert response.status >= 200, "Triton's own error is 500"
    assert server.ask({"text_input": "one", "max_tokens": 9})["text_output"] == "one"


def test_prompts_in_shared_memory_are_private(server: Server) -> None:
    (prefix,) = {name for name in shm_names(server.process.pid) if name.startswith("trt-launch-")}
    regions = [path for path in Path("/dev/shm").glob(f"{prefix}r0-*-*") if not path.is_symlink()]
    assert len(regions) >= 3, "one for each Python model"
    until(lambda: not [p for p in regions if stat.S_IMODE(p.stat().st_mode) & 0o077])
    assert server.ask({"text_input": "two", "max_tokens": 9})["text_output"] == "two"


@pytest.mark.parametrize("model", ["preprocessing", "tensorrt_llm", "postprocessing"])
def test_a_stub_that_stops_in_a_burst(repository: Path, tmp_path: Path, model: str) -> None:
    """No client gets the text of another, and the server ends with a reason."""
    wrong: list[tuple[str, str]] = []
    over = threading.Event()
    right = itertools.count()

    def client(number: int) -> None:
        for turn in itertools.count():
            text = f"client {number}, turn {turn}"
            with contextlib.suppress(Exception):
                status, answer = server.generate({"text_input": text, "max_tokens": 99})
                if status == 200 and answer["text_output"] != text:
                    wrong.append((text, answer["text_output"]))
                next(right)
            if over.is_set():
                return

    with (
        launched(repository, tmp_path, exit_code=None) as server,
        ThreadPoolExecutor(16) as pool,
    ):
        try:
            clients = [pool.submit(client, number) for number in range(16)]
            until(lambda: next(right) > 50)
            victim = stub(server.process.pid, model)
            assert victim is not None
            os.kill(victim, signal.SIGSTOP)
            time.sleep(1.6)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
            server.process.wait(30)
        finally:
            over.set()
        for each in clients:
            each.result(30)
    assert not wrong
    last = server.log.read_text().splitlines()[-1]
    assert last.startswith(f"error: the Python process of model {model!r} did not run for ")
    assert last.endswith("; give the server more processors, or CAP_SYS_NICE")


def test_a_stub_that_stops_while_it_loads(bpe_dir: Path, tmp_path: Path) -> None:
    """The launcher starts the server once more."""
    repository = generate_replay(tmp_path / "repo", bpe_dir)
    slow = repository / "preprocessing" / "1" / "model.py"
    slow.write_text(f"import time\n\ntime.sleep(2)\n{slow.read_text()}")
    http_port, grpc_port, metrics_port = free_ports(3)
    ready, log = tmp_path / "ready", tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("launch_server")),
                *("--model-repo", str(repository), "--ready-file", str(ready)),
                *("--http-port", str(http_port), "--grpc-port", str(grpc_port)),
                *("--metrics-port", str(metrics_port)),
            ],
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        until(lambda: stub(process.pid, "preprocessing"))
        victim = stub(process.pid, "preprocessing")
        assert victim is not None
        time.sleep(0.5)
        os.kill(victim, signal.SIGSTOP)
        time.sleep(2.5)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)
        until(lambda: ready.exists() or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()[-4000:]
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert "boost::interprocess::lock_exception; a Python process got no" in log.read_text()
