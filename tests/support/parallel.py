"""Finds processes of a launch with several ranks."""

from __future__ import annotations

import contextlib
from pathlib import Path

from harness import Server, descendants


def rank_pid(server: Server, rank: int, name: str = "tritonserver") -> int:
    """Process id of a rank's tritonserver; with *name* ``stub``, of its engine's process."""
    for pid in sorted(descendants(server.process.pid)):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_text()
            environ = Path(f"/proc/{pid}/environ").read_text().split("\0")
            program = Path(command.split("\0")[0]).name
            its_name = "stub" if "python_backend_stub" in program else program
            of_engine = its_name != "stub" or "/tensorrt_llm/" in command
            if f"OMPI_COMM_WORLD_RANK={rank}" in environ and its_name == name and of_engine:
                return pid
    raise AssertionError(f"rank {rank} has no {name}: {server.log.read_text()[-3000:]}")
