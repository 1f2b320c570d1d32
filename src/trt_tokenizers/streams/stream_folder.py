"""The stream folder: where the processes of one tritonserver exchange files.

Standard library only: the rank agent imports this module and has no other packages.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Shared memory. Triton and its Python models use it as well.
SHM = Path("/dev/shm")
#: Name of the file that marks a server as draining: it takes no new requests.
MARK = "draining"
#: Matches the names that `stream_folder` gives.
STREAM_FOLDER = re.compile(r"trt-tokenizers-\d+-\d+$")
#: File name prefixes of contexts that wait for postprocessing, and of those that it has taken.
WAITING, RUNNING = "waiting-", "running-"


def stream_folder(server_pid: int) -> Path:
    """The stream folder of a tritonserver that lives, or is a zombie: in shared memory, or where
    that cannot be written among the temporary files.

    Its name has the process' start time as well: ids are used again, and containers that share
    /dev/shm may have the same.
    """
    root = SHM if os.access(SHM, os.W_OK) else Path(os.environ.get("TMPDIR", "/tmp"))
    try:
        # Field 22 of proc(5), counted behind the name, which may hold spaces.
        started = Path(f"/proc/{server_pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        started = "0"
    return root / f"trt-tokenizers-{server_pid}-{started}"


class OpenStream(NamedTuple):
    """A stream that has not ended.

    Attributes:
        path: the file that holds its context.
        waits: whether postprocessing has not taken the context yet.
        silent_s: seconds since its last sign of life.
    """

    path: Path
    waits: bool
    silent_s: float


def open_streams(folder: Path) -> Iterator[OpenStream]:
    """The streams of a server that have not ended."""
    now = time.time()
    for path in folder.glob("*-*-*"):
        waits = path.name.startswith(WAITING)
        if waits or path.name.startswith(RUNNING):
            with contextlib.suppress(FileNotFoundError):  # taken or ended meanwhile
                yield OpenStream(path, waits, now - path.stat().st_ctime)
