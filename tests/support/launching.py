"""Starts launchers of the fake tritonserver, and checks that nothing is left of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import free_ports
from trt_tokenizers.launcher.process_tree import children, running_with
from trt_tokenizers.streams.process_stat import is_running as alive
from trt_tokenizers.streams.process_stat import read_stat

FAKE = Path(__file__).parents[1] / "fakes" / "fake_tritonserver.py"
COMMAND = "from trt_tokenizers.cli.main import launch_server; launch_server()"


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def parent(pid: int) -> int:
    stat = read_stat(pid)
    assert stat is not None
    return stat.parent


@dataclasses.dataclass
class Launch:
    """A launcher process with its own files."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def ready(self) -> Path:
        return self.folder / "ready"

    def state(self, rank: int = 0) -> dict[str, object]:
        """The state file of a rank's fake server."""
        state = self.folder / f"state.{rank}"
        until(state.exists)
        return dict(json.loads(state.read_text()))

    def server(self, rank: int = 0) -> int:
        return int(str(self.state(rank)["pid"]))

    def stub(self, rank: int = 0) -> int:
        return int(str(self.state(rank)["stub"]))

    def agent(self, rank: int = 0) -> int:
        return parent(self.server(rank))

    def starter(self) -> int:
        """The process that the launcher started: mpirun, or the one rank agent."""
        (starter,) = children(self.process.pid)
        return starter

    def until_ready(self) -> Launch:
        until(lambda: self.ready.exists() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.err()
        return self

    def ended(self) -> int:
        """Wait for the launcher's exit code, and check that everything else has ended."""
        code = self.process.wait(timeout=15)
        self.assert_nothing_left()
        return code

    def assert_nothing_left(self) -> None:
        states = [json.loads(path.read_text()) for path in self.folder.glob("state.?")]
        assert states
        until(lambda: not running_with(states[0]["launch"]))
        until(lambda: not any(alive(s["pid"]) or alive(s["stub"]) for s in states))
        shm = Path("/dev/shm")
        until(lambda: not list(shm.glob(f"{states[0]['launch']}*")))
        until(lambda: not any(list(shm.glob(f"trt-tokenizers-{s['pid']}-*")) for s in states))
        until(lambda: not self.ready.exists())

    def out(self) -> str:
        return (self.folder / "out").read_text()

    def err(self) -> str:
        return (self.folder / "err").read_text()

    def said(self) -> list[str]:
        """The launcher's own output lines."""
        return [x for x in self.err().splitlines() if x.startswith(("launch: ", "error: "))]


Start = Callable[..., Launch]


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[Start]:
    """Yield a function that starts launchers of a fake server, configured by `FAKE_…` arguments."""
    program = folder / "tritonserver"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -S {FAKE} "$@"\n')
    program.chmod(0o755)
    for name in ("one", "tensorrt_llm"):
        model = folder / "models" / name
        model.mkdir(parents=True)
        (model / "config.pbtxt").write_text('backend: "python"\n')
    started: list[Launch] = []

    def start(*options: str, **more: Any) -> Launch:
        env = {name: more.pop(name) for name in list(more) if name.startswith("FAKE_")}
        for state in folder.glob("state.?"):
            state.unlink()
        http, grpc, metrics = free_ports(3)
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", COMMAND, "--triton-server", str(program)),
                    *("--model_repo", str(folder / "models")),
                    *("--ready-file", str(folder / "ready")),
                    *("--http_port", str(http), "--grpc_port", str(grpc)),
                    *("--metrics_port", str(metrics), *options),
                ],
                **{"stdout": out, "stderr": err, **more},
                env={**os.environ, "FAKE_STATE": str(folder / "state"), **env},
            )
        started.append(Launch(folder, process))
        return started[-1]

    yield start
    for launch in started:
        launch.process.kill()
        launch.process.wait()


def killed_by_a_second_signal(start: Start) -> str:
    """Stop a server that does not end, twice; the launch's last line."""
    launch = start(FAKE_STUCK="1").until_ready()
    launch.process.terminate()
    until(lambda: "SIGTERM: stopping, 20 s" in launch.err())
    launch.process.terminate()
    assert launch.ended() == 137
    return launch.said()[-1]
