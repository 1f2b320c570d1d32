"""Several ranks with a real MPI: started, drained, and with every process killed."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import free_ports, launched
from launching import Launch, Start, alive, killed_by_a_second_signal, parent, starting, until
from trt_tokenizers.launcher.process_tree import running_with

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, mpirun: str) -> Iterator[Start]:
    """All starts are in one folder, so each also shows that the test before it left nothing that
    hinders the next start."""
    with starting(tmp_path_factory.mktemp("starts")) as start:
        yield lambda *options, **more: start(
            "--world-size", "3", "--mpirun", mpirun, *options, **more
        )


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


#: Killed process -> (action, reason, exit code; None: the MPI's own code, not 0).
FAULTS: dict[str, tuple[Callable[[Launch], None], str, int | None]] = {
    "server 1": (lambda x: kill(x.server(1)), r"rank 1 on \S+ ended by itself \(SIGKILL\)", 137),
    "server 0": (lambda x: kill(x.server(0)), r"rank 0 on \S+ ended by itself \(SIGKILL\)", 137),
    "stub 1": (lambda x: kill(x.stub(1)), r"rank 1 on \S+: the Python process of .* died", 1),
    "stub 0": (lambda x: kill(x.stub(0)), r"rank 0 on \S+: the Python process of .* died", 1),
    "agent 2": (lambda x: kill(x.agent(2)), r"rank 2 on \S+ ended by itself \(SIGKILL\)", 137),
    "relay 1": (
        lambda x: kill(parent(x.agent(1))), r"mpi\S+ ended by itself \(.*\)", None
    ),
    "mpirun": (lambda x: kill(x.starter()), r"mpi\S+ ended by itself \(SIGKILL\)", 137),
    "launcher": (lambda x: x.process.kill(), "", -signal.SIGKILL),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_after_any_kill_all_end_and_nothing_is_left(start: Start, fault: str) -> None:
    act, reason, code = FAULTS[fault]
    launch = start().until_ready()
    for rank in range(3):
        assert alive(launch.server(rank))
    act(launch)
    ended = launch.ended()
    assert ended == code if code is not None else ended not in (0, None), launch.err()
    if reason:
        assert re.match(f"error: {reason}", launch.said()[-1]), launch.err()


def test_a_killed_mpirun_leaves_no_session(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open MPI names its session after its process id, which a restarted container reuses."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    launch = start().until_ready()
    kill(launch.starter())
    assert launch.ended() == 137, launch.err()
    left = {path.name for path in folder.iterdir() if not path.name.startswith("trt-tokenizers-")}
    assert not left


@pytest.mark.parametrize("rank", [0, 1])
def test_a_model_that_raises_is_named_with_its_rank(start: Start, rank: int) -> None:
    launch = start(FAKE_FAIL=str(rank), FAKE_LOAD="600")
    assert launch.ended() == 1
    assert re.fullmatch(
        rf"error: rank {rank} on \S+ ended before it was ready \(exit code 1\): "
        "model 'two': ValueError: no tokenizer",
        launch.said()[-1],
    )
    assert f"launch: the last lines of rank {rank}:" in launch.said()
    assert "launch:   error: creating server: Internal - failed to load all models" in launch.said()


def test_a_model_that_hangs_in_initialize(start: Start) -> None:
    launch = start("--ready-timeout", "5", FAKE_LOAD="600")
    assert launch.ended() == 1
    assert launch.said()[-1].startswith("error: not ready within --ready-timeout 5 s; ready so far")


def test_a_second_signal_ends_at_once(start: Start) -> None:
    last = killed_by_a_second_signal(start)
    assert last == "error: the ranks were killed on a second signal (SIGTERM)"


def test_output_has_a_label_or_a_file_per_rank(start: Start, tmp_path: Path) -> None:
    launch = start().until_ready()
    launch.process.terminate()
    assert launch.ended() == 0, launch.err()
    assert sorted(launch.out().splitlines()) == [
        f"[{rank}] standard output of the server" for rank in range(3)
    ]
    assert '"event": ' not in launch.err()
    assert "signals: [15]" in launch.err(), "rank 0 got one SIGTERM"
    logs = tmp_path / "logs"
    launch = start("--log-dir", str(logs)).until_ready()
    launch.process.terminate()
    assert launch.ended() == 0, launch.err()
    assert launch.out() == ""
    assert sorted(path.name for path in logs.iterdir()) == [f"rank{n}.log" for n in range(3)]
    assert "standard output of the server\n" in (logs / "rank2.log").read_text()


def test_a_port_in_use_starts_nothing(start: Start) -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        launch = start("--metrics_port", str(used.getsockname()[1]))
        assert launch.process.wait(timeout=30) == 1
    assert "is in use by pid" in launch.said()[0]
    assert not list(launch.folder.glob("state.?"))


def test_a_second_server_on_the_repository_is_refused(start: Start) -> None:
    first = start().until_ready()
    state = first.state()
    second = start()
    assert second.process.wait(timeout=30) == 1
    assert f"another launch_server (pid {first.process.pid}) serves" in second.said()[0]
    first.process.terminate()
    assert first.process.wait(timeout=30) == 0
    assert not alive(int(str(state["pid"])))


@pytest.mark.triton
class TestRealServers:
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Path:
        model = tmp_path / "repo" / "tensorrt_llm"
        (model / "1").mkdir(parents=True)
        (model / "config.pbtxt").write_text(
            'backend: "python"\n'
            'input [ { name: "SECONDS" data_type: TYPE_FP32 dims: [ 1 ] } ]\n'
            'output [ { name: "SLEPT" data_type: TYPE_FP32 dims: [ 1 ] } ]\n'
        )
        source = Path(__file__).parents[1] / "support" / "blocking.py"
        shutil.copy(source, model / "1" / "model.py")
        return model.parent

    def test_requests_finish_and_every_rank_ends(
        self, repository: Path, tmp_path: Path, mpirun: str
    ) -> None:
        answers: list[object] = []
        options = ("--world-size", "3", "--mpirun", mpirun, "--exit-timeout", "10")
        with launched(repository, tmp_path, *options) as server:
            address = server.http.removeprefix("http://")
            idle = http.client.HTTPConnection(address)  # Triton exits with 1 while it is open
            idle.request("GET", "/v2/health/ready")
            idle.getresponse().read()
            asking = threading.Thread(target=lambda: answers.append(ask(address, 2.0)))
            asking.start()
            until((repository / "tensorrt_llm" / "executing").exists)
        asking.join()
        idle.close()
        assert answers == [2.0]
        log = server.log.read_text()
        assert "Exit timeout expired" in log, "the case of this test"
        meet = [(repository / "tensorrt_llm" / f"rank-{n}").read_text() for n in range(3)]
        assert meet == [meet[0]] * 3
        assert meet[0].startswith("127.0.0.1:")

    def test_the_real_stub_of_another_rank_dies(
        self, repository: Path, tmp_path: Path, mpirun: str
    ) -> None:
        options = ("--world-size", "2", "--mpirun", mpirun)
        with launched(repository, tmp_path, *options, exit_code=1) as server:
            kill(stub_of(repository, rank=1))
            server.process.wait(timeout=60)
        reason = r"error: rank 1 on \S+.*(stub process .* is not healthy|Python process of .* died)"
        assert re.search(reason, server.log.read_text(), re.IGNORECASE)

    @pytest.mark.skipif(os.geteuid() != 0, reason="a private /dev/shm needs root")
    def test_a_full_dev_shm_is_the_reason(self, repository: Path, tmp_path: Path) -> None:
        """Enough space for the check before the start, but not for the models."""
        http_port, grpc, metrics = map(str, free_ports(3))
        launcher = Path(sys.executable).with_name("launch_server")
        mount = "mount -t tmpfs -o size=1100k tmpfs /dev/shm && exec"
        command = f"{mount} {launcher} --model-repo {repository} --ready-timeout 60"
        command += f" --http-port {http_port} --grpc-port {grpc} --metrics-port {metrics}"
        command += " --world-size 2"
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", command],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode not in (0, None)
        (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
        assert "--shm-size" in line
        assert re.match(r"error: rank [01] on \S+ ended before it was ready", line)
        assert not running_with(str(repository))


def stub_of(repository: Path, rank: int) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and alive(int(entry.name)):
            line = (entry / "cmdline").read_bytes().decode()
            if "backend_stub" in line and str(repository) in line and f"-r{rank}-" in line:
                return int(entry.name)
    raise AssertionError("no such stub")


def ask(address: str, seconds: float) -> object:
    connection = http.client.HTTPConnection(address, timeout=60)
    tensor = {"name": "SECONDS", "shape": [1], "datatype": "FP32", "data": [seconds]}
    connection.request("POST", "/v2/models/tensorrt_llm/infer", json.dumps({"inputs": [tensor]}))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer["outputs"][0]["data"][0]
