"""The GPUs of this host, by nvidia-smi or the driver, and those that CUDA shows to a process."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_QUERY = ("nvidia-smi", "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits")
_TIMEOUT = 20.0  # seconds; without the persistence daemon each query initializes the driver
_DRIVER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: its UUID, or the driver's name for it.
        memory: total bytes; None if unknown.
    """

    name: str
    memory: int | None = None


def host_gpus(environ: Mapping[str, str], driver: Path = _DRIVER) -> list[Gpu]:
    """All GPUs of this host in the driver's order, by nvidia-smi or else by /proc.

    Args:
        environ: nvidia-smi is searched in its PATH.
        driver: the driver's folder with one entry per GPU.
    """
    try:
        done = subprocess.run(
            ["/usr/bin/env", *_QUERY],
            env={"PATH": environ.get("PATH", "")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return [Gpu(entry.name) for entry in sorted(driver.glob("*"))]
    gpus = []
    for line in done.stdout.splitlines():
        name, _, mebibytes = (part.strip() for part in line.partition(","))
        if name:
            # "[N/A]" if the GPU shares the memory of the host.
            memory = int(mebibytes) * 2**20 if mebibytes.isdecimal() else None
            gpus.append(Gpu(name, memory))
    return gpus


def visible_gpus(gpus: list[Gpu], environ: Mapping[str, str]) -> list[Gpu]:
    """Those of *gpus* that CUDA shows to a process with *environ*.

    CUDA_VISIBLE_DEVICES contains numbers or UUID prefixes. Like in CUDA, the first entry that
    matches no GPU ends the list.
    """
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return gpus
    seen: list[Gpu] = []
    for word in (part.strip() for part in chosen.split(",")):
        if word.isdecimal():
            found = gpus[int(word) : int(word) + 1]
        elif word.startswith("MIG-"):  # a partition of a GPU, not listed by the query
            found = [Gpu(word)] if gpus else []
        else:
            found = [gpu for gpu in gpus if word and gpu.name.startswith(word)]
        if len(found) != 1:
            break
        seen += found
    return seen
