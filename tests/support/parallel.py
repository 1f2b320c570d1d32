"""A server of several ranks, under a hand-written mpirun line."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness import Server, descendants, free_ports
from trt_tokenizers.launch import Deployment, plan
from trt_tokenizers.server import find_server

READY_S = 240


@dataclass
class Ranks(Server):
    """A server whose process is mpirun."""

    seen: set[int] = field(default_factory=set)  # processes, when it became ready

    def pid(self, rank: int, name: str = "tritonserver") -> int:
        """Of a rank's server, or of its engine's process, the stub of the model tensorrt_llm."""
        for pid in sorted(descendants(self.process.pid)):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_text()
                environ = Path(f"/proc/{pid}/environ").read_text().split("\0")
                program = Path(command.split("\0")[0]).name
                its_name = "stub" if "python_backend_stub" in program else program
                of_engine = its_name != "stub" or "/tensorrt_llm/" in command
                if f"OMPI_COMM_WORLD_RANK={rank}" in environ and its_name == name and of_engine:
                    return pid
        raise AssertionError(f"rank {rank} has no {name}: {self.log.read_text()[-3000:]}")

    def stop(self) -> int:
        """The leader is asked to stop; the exit code of all."""
        os.kill(self.pid(0), signal.SIGTERM)
        return self.process.wait(timeout=60)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            assert self.process.poll() is None, self.log.read_text()[-6000:]
            assert time.monotonic() < deadline, self.log.read_text()[-6000:]
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.http}/v2/health/ready", timeout=5).close()
                self.seen = descendants(self.process.pid)
                return
            time.sleep(0.2)


@contextlib.contextmanager
def started(repository: Path, folder: Path, size: int, **environ: str) -> Iterator[Ranks]:
    """mpirun with a tritonserver for each rank; the leader has the whole repository, the others
    its model tensorrt_llm. Whatever of them is left when the block ends is killed."""
    http, grpc, metrics, master = free_ports(4)
    prefix = f"trt-mpi-test-{secrets.token_hex(4)}"
    deployment = Deployment(
        repository, http_port=http, grpc_port=grpc, metrics_port=metrics, shm_prefix=prefix
    )
    leader = plan(deployment, find_server()).ranks[0]
    mpirun = Path(sys.executable).with_name("mpirun")
    line = [str(mpirun), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
    line += ["-n", "1", *leader.argv]
    kept = ("--backend-directory", "--disable-auto-complete-config")
    for rank in range(1, size):
        line += [":", "-n", "1", leader.argv[0], f"--model-repository={repository}"]
        line += [argument for argument in leader.argv if argument.startswith(kept)]
        line += ["--allow-http=false", "--allow-grpc=false", "--allow-metrics=false"]
        line += ["--model-control-mode=explicit", "--load-model=tensorrt_llm"]
        line += [f"--backend-config=python,shm-region-prefix-name={prefix}-r{rank}-"]
    log = folder / "ranks.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            line,
            env={
                **os.environ, **leader.env, "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(master), **environ,
            },
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    ranks = Ranks(
        process,
        f"http://127.0.0.1:{http}",
        f"127.0.0.1:{grpc}",
        f"http://127.0.0.1:{metrics}/metrics",
        log,
    )
    try:
        yield ranks
    finally:
        mine = str(repository).encode()
        for pid in ranks.seen | descendants(process.pid):
            with contextlib.suppress(OSError):  # it has ended
                if mine in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait(timeout=30)
        for left in Path("/dev/shm").glob(f"{prefix}*"):
            left.unlink(missing_ok=True)
        for left in Path("/dev/shm").glob("trt-tokenizers-*"):
            if not Path("/proc", left.name.split("-")[2]).exists():
                shutil.rmtree(left, ignore_errors=True)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be collected does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
