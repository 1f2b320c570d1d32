"""launch_server on the real Triton: how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient

from harness import (
    Server,
    descendants,
    free_ports,
    generate_replay,
    joined,
    launched,
    shm_names,
    tensors,
    without_keys,
)
from launching import until

pytestmark = pytest.mark.triton


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def gone(pids: set[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pids)


@dataclass(frozen=True)
class Ended:
    """What was seen of a server that was asked and then stopped."""

    answer: str
    processes: set[int]
    left: set[int]
    policies: list[set[int]]
    log: str
    seconds: float


@pytest.fixture(scope="module")
def ended(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """SIGINT, with a gRPC stream open; `launched` expects exit code 0 and nothing in /dev/shm.

    tritonserver collects its stubs, so their exit codes are lost; Python's fault handler writes to
    the server's log if a process ends by a signal such as SIGSEGV.
    """
    folder = tmp_path_factory.mktemp("ended")
    repository = generate_replay(folder / "repo", bpe_dir)
    for model in ("preprocessing", "tensorrt_llm", "postprocessing"):
        path = repository / model / "1" / "model.py"
        path.write_text(f"import faulthandler\n\nfaulthandler.enable()\n{path.read_text()}")
    with launched(repository, folder) as server, grpc_client(server) as idle:
        answer = server.ask({"text_input": "héllo 世界", "max_tokens": 99})["text_output"]
        idle.start_stream(callback=lambda result, error: None)
        idle.async_stream_infer("ensemble", tensors({"text_input": "a", "max_tokens": 9}))
        until(lambda: server.metric("trt_tokenizers:generation_tokens_total") > 0)
        until(lambda: server.metric("trt_tokenizers:requests_total") > 1)
        processes = descendants(server.process.pid)
        stubs = [
            pid
            for pid in processes
            if Path(f"/proc/{pid}/comm").read_text().strip() == "triton_python_b"
        ]
        policies = [
            {os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}
            for pid in stubs
        ]
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        server.process.wait(timeout=60)
        seconds = time.monotonic() - began
        left = alive(processes)
    return Ended(answer, processes, left, policies, server.log.read_text(), seconds)


@contextlib.contextmanager
def grpc_client(server: Server) -> Iterator[grpcclient.InferenceServerClient]:
    with contextlib.suppress(Exception), grpcclient.InferenceServerClient(server.grpc) as client:
        yield client


def test_ctrl_c_leaves_nothing(ended: Ended) -> None:
    assert ended.answer == "héllo 世界"
    assert len(ended.processes) >= 4, "tritonserver and its stubs"
    assert ended.left == set()


def test_every_python_process_ends_without_a_crash(ended: Ended) -> None:
    assert "Fatal Python error" not in ended.log


def test_an_idle_grpc_stream_does_not_delay_a_stop(ended: Ended) -> None:
    assert ended.seconds < 15, "the exit timeout is 20 s"


def test_the_health_thread_of_every_stub_has_priority(ended: Ended) -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except PermissionError:
        pytest.skip("real-time priorities are not permitted here")
    raised = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    assert len(ended.policies) >= 3
    assert all(policy == {os.SCHED_OTHER, raised} for policy in ended.policies)


def test_a_killed_launcher_leaves_nothing(bpe_dir: Path, tmp_path: Path) -> None:
    """Neither a process nor the folder that the server's Python models have in /tmp."""
    repository = generate_replay(tmp_path / "repo", bpe_dir)
    with launched(repository, tmp_path, exit_code=-signal.SIGKILL) as server:
        pids = descendants(server.process.pid)
        (prefix,) = {n for n in shm_names(server.process.pid) if n.startswith("trt-launch-")}
        registered = [*Path("/dev/shm").glob(f"{prefix}*remove-python_env_*")]
        assert registered
        # If another server started meanwhile, its folder may be the one.
        environments = [p.readlink() for p in registered if "if-none-runs" not in p.name]
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    assert gone(pids, 10), alive(pids)
    until(lambda: not any(path.exists() for path in environments))


def test_a_context_that_nobody_takes_does_not_delay_a_stop(bpe_dir: Path, tmp_path: Path) -> None:
    """A client that calls preprocessing alone leaves one; it counts for 10 s. An answer of an
    engine that is silent for longer is waited for, also without stream keys. Both servers wait at
    the same time."""
    slow = ("--engine-parameter", "steps_per_second=20", "--engine-parameter", "delay_s=15")
    ours, cpp = tmp_path / "ours", tmp_path / "cpp"
    for folder in (ours, cpp):
        folder.mkdir()
        generate_replay(folder / "repo", bpe_dir, *slow)
    without_keys(cpp / "repo")
    text = "words " * 200
    with (
        launched(ours / "repo", ours, "--drain-timeout", "60") as first,
        launched(cpp / "repo", cpp, "--drain-timeout", "60") as second,
        ThreadPoolExecutor(2) as pool,
    ):
        servers = (first, second)
        for server in servers:
            server.preprocess({"text_input": "alone"}, request_id="alone")
            assert server.contexts() == 1
        body = {"text_input": text, "max_tokens": 30, "id": "ensemble"}
        answers = [pool.submit(server.ask, body) for server in servers]
        for server, answer in zip(servers, answers, strict=True):
            until(lambda s=server, a=answer: s.contexts() == 2 or a.done())
            assert not answer.done(), answer.result()
        started = time.monotonic()
        for server in servers:
            server.process.terminate()
        for server in servers:
            assert server.process.wait(timeout=90) == 0
            assert 12 < time.monotonic() - started < 30
    for answer in answers:
        assert text.startswith(answer.result(timeout=5)["text_output"])


def test_running_streams_finish_before_the_server_stops(bpe_dir: Path, tmp_path: Path) -> None:
    """Half of them over HTTP, half over gRPC."""
    pace = ("--engine-parameter", "steps_per_second=25")
    repository = generate_replay(tmp_path / "repo", bpe_dir, *pace)
    texts = [f"{number} " + "héllo 世界 " * 8 for number in range(32)]
    bodies = [{"text_input": text, "max_tokens": 500, "stream": True} for text in texts]
    with launched(repository, tmp_path) as server, ThreadPoolExecutor(len(texts)) as pool:
        http = [pool.submit(server.sse, body) for body in bodies[::2]]
        grpc = [pool.submit(lambda body=body: server.streams([body])[0]) for body in bodies[1::2]]
        deadline = time.monotonic() + 60
        while server.metric("trt_tokenizers:engine_sequences_running") < len(texts):
            assert time.monotonic() < deadline
        server.process.terminate()
        until(lambda: "stopping" in server.log.read_text())
        late = {"text_input": "x", "max_tokens": 1}
        # The generate endpoint of 24.10 answers UNAVAILABLE with 400.
        until(lambda: "takes no new requests" in str(server.generate(late)))
        assert server.process.wait(timeout=60) == 0, server.log.read_text()[-4000:]
        events, chunks = ([s.result(timeout=10) for s in streams] for streams in (http, grpc))
    assert ["".join(event["text_output"] for event in each) for each in events] == texts[::2]
    assert [joined(each) for each in chunks] == texts[1::2]
    assert all(len(each) > 10 for each in (*events, *chunks)), "these were streams"


def test_a_server_that_cannot_load_says_why(bpe_dir: Path, tmp_path: Path) -> None:
    repository = generate_replay(tmp_path / "repo", bpe_dir, "--engine-parameter", "chunk_sizes=x")
    http, grpc, metrics = map(str, free_ports(3))
    program = str(Path(sys.executable).with_name("launch_server"))
    done = subprocess.run(
        [program, "--model-repo", str(repository), "--http-port", http, "--grpc-port", grpc,
         "--metrics-port", metrics],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "parameter 'chunk_sizes' is 'x'; expected a whole number" in done.stderr
