"""Reads /proc/PID/stat; see proc(5). Standard library only."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class ProcessStat(NamedTuple):
    """The facts about one process that this package uses.

    Attributes:
        parent: process id of the parent.
        zombie: the process has ended, and its parent has not collected it.
        started: start time in clock ticks after boot.
        wait_status: of a zombie, its status as waitpid(2) gives it; otherwise 0.
    """

    parent: int
    zombie: bool
    started: int
    wait_status: int


def read_stat(pid: int | Path) -> ProcessStat | None:
    """Read /proc/PID/stat, or the stat of a folder such as /proc/PID/task/TID; None if the process
    does not exist."""
    try:
        text = (Path("/proc", str(pid)) / "stat").read_text()
    except OSError:
        return None
    # Field 2 is the name in brackets. It may contain spaces and brackets, so split after the last.
    fields = text.rpartition(")")[2].split()
    return ProcessStat(int(fields[1]), fields[0] == "Z", int(fields[19]), int(fields[-1]))


def is_running(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    stat = read_stat(pid)
    return stat is not None and not stat.zombie


def handles(pid: int, number: int) -> bool:
    """Whether the process has a handler for this signal; False if the process does not exist."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
