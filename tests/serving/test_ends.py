"""launch_server on the real Triton: how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import descendants, generate_replay, joined, launched, without_keys
from launching import until

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def repository(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_replay(tmp_path_factory.mktemp("launch") / "repo", bpe_dir)


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def gone(pids: set[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pids)


def test_ctrl_c_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    """`launched` sends SIGINT and expects exit code 0 and nothing left in /dev/shm."""
    with launched(repository, tmp_path) as server:
        assert (
            server.ask({"text_input": "héllo 世界", "max_tokens": 99})["text_output"]
            == "héllo 世界"
        )
        pids = descendants(server.process.pid)
        assert len(pids) >= 4, "tritonserver and its stubs"
    assert alive(pids) == set()


def test_every_python_process_ends_without_a_crash(bpe_dir: Path, tmp_path: Path) -> None:
    """tritonserver collects its stubs, so their exit codes are lost; Python's fault handler writes
    to the server's log if a process ends by a signal such as SIGSEGV."""
    repository = generate_replay(tmp_path / "repo", bpe_dir)
    for model in ("preprocessing", "tensorrt_llm", "postprocessing"):
        path = repository / model / "1" / "model.py"
        path.write_text(f"import faulthandler\n\nfaulthandler.enable()\n{path.read_text()}")
    with launched(repository, tmp_path) as server:
        server.ask({"text_input": "one", "max_tokens": 9})
        until(lambda: server.metric("trt_tokenizers:generation_tokens_total") > 0)
        until(lambda: server.metric("trt_tokenizers:requests_total") > 0)
    assert "Fatal Python error" not in server.log.read_text()


def test_a_killed_launcher_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    with launched(repository, tmp_path, exit_code=-signal.SIGKILL) as server:
        pids = descendants(server.process.pid)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    assert gone(pids, 10), alive(pids)


@pytest.mark.parametrize("engine", ["ours", "cpp"])
def test_a_context_that_nobody_takes_does_not_delay_a_stop(
    bpe_dir: Path, tmp_path: Path, engine: str
) -> None:
    """A client that calls preprocessing alone leaves one; it counts for 10 s. An answer of an
    engine that is silent for longer is waited for, also without stream keys."""
    slow = ("--engine-parameter", "steps_per_second=20", "--engine-parameter", "delay_s=15")
    repository = generate_replay(tmp_path / "repo", bpe_dir, *slow)
    if engine == "cpp":
        without_keys(repository)
    text = "words " * 200
    with (
        launched(repository, tmp_path, "--drain-timeout", "60") as server,
        ThreadPoolExecutor(1) as pool,
    ):
        server.preprocess({"text_input": "alone"}, request_id="alone")
        assert server.contexts() == 1
        body = {"text_input": text, "max_tokens": 30, "id": "ensemble"}
        answer = pool.submit(server.ask, body)
        until(lambda: server.contexts() == 2 or answer.done())
        assert not answer.done(), answer.result()
        started = time.monotonic()
        server.process.terminate()
        assert server.process.wait(timeout=90) == 0
        took = time.monotonic() - started
    assert text.startswith(answer.result(timeout=5)["text_output"])
    assert 12 < took < 30


def test_the_health_thread_of_every_stub_has_priority(repository: Path, tmp_path: Path) -> None:
    with launched(repository, tmp_path) as server:
        stubs = [
            pid
            for pid in descendants(server.process.pid)
            if Path(f"/proc/{pid}/comm").read_text().strip() == "triton_python_b"
        ]
        policies = [
            {os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}
            for pid in stubs
        ]
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except PermissionError:
        pytest.skip("real-time priorities are not permitted here")
    raised = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    assert len(policies) >= 3
    assert all(policy == {os.SCHED_OTHER, raised} for policy in policies)


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_running_streams_finish_before_the_server_stops(
    bpe_dir: Path, tmp_path: Path, transport: str
) -> None:
    pace = ("--engine-parameter", "steps_per_second=25")
    repository = generate_replay(tmp_path / "repo", bpe_dir, *pace)
    texts = [f"{number} " + "héllo 世界 " * 8 for number in range(32)]
    bodies = [{"text_input": text, "max_tokens": 500, "stream": True} for text in texts]
    with launched(repository, tmp_path) as server, ThreadPoolExecutor(len(texts)) as pool:
        if transport == "http":
            streams = [pool.submit(server.sse, body) for body in bodies]
        else:
            streams = [pool.submit(lambda body=body: server.streams([body])[0]) for body in bodies]
        deadline = time.monotonic() + 60
        while server.metric("trt_tokenizers:engine_sequences_running") < len(texts):
            assert time.monotonic() < deadline
        server.process.terminate()
        until(lambda: "stopping" in server.log.read_text())
        late = {"text_input": "x", "max_tokens": 1}
        # The generate endpoint of 24.10 answers UNAVAILABLE with 400.
        until(lambda: "takes no new requests" in str(server.generate(late)))
        assert server.process.wait(timeout=60) == 0, server.log.read_text()[-4000:]
        answers = [stream.result(timeout=10) for stream in streams]
    if transport == "http":
        assert ["".join(event["text_output"] for event in events) for events in answers] == texts
    else:
        assert [joined(chunks) for chunks in answers] == texts
    assert all(len(chunks) > 10 for chunks in answers), "these were streams"


def test_a_server_that_cannot_load_says_why(bpe_dir: Path, tmp_path: Path) -> None:
    repository = generate_replay(tmp_path / "repo", bpe_dir, "--engine-parameter", "chunk_sizes=x")
    program = str(Path(sys.executable).with_name("launch_server"))
    done = subprocess.run(
        [program, "--model-repo", str(repository), "--http-port", "18973", "--grpc-port", "18974",
         "--metrics-port", "18975"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "parameter 'chunk_sizes' is 'x'; expected a whole number" in done.stderr
