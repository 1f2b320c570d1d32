"""The stream folder: where the processes of one tritonserver exchange files.

Standard library only, because the rank agent imports it with ``python -I -S``.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trt_tokenizers.streams.process_stat import read_stat

#: Shared memory. Triton and its Python models use it as well.
SHM = Path("/dev/shm")
#: Name of the file that marks a server as draining: it takes no new requests.
MARK = "draining"
#: File name prefixes of contexts, see `context_store`.
WAITING, RUNNING = "waiting-", "running-"


def stream_folder(server_pid: int) -> Path:
    """Path of the stream folder of a tritonserver that runs or is a zombie.

    It is in shared memory, or among the temporary files if shared memory is not writable. The name
    includes the start time of the process, because process ids are reused and containers that share
    /dev/shm may have equal ones.
    """
    root = SHM if os.access(SHM, os.W_OK) else Path(os.environ.get("TMPDIR", "/tmp"))
    stat = read_stat(server_pid)
    return root / f"trt-tokenizers-{server_pid}-{stat.started if stat else 0}"


class OpenStream(NamedTuple):
    """A stream that has not ended.

    Attributes:
        path: the file that holds its context.
        waits: whether it has no signs of life yet, because the C++ backend gives none.
        silent_s: seconds since its last sign of life.
    """

    path: Path
    waits: bool
    silent_s: float


def open_streams(folder: Path) -> Iterator[OpenStream]:
    """The streams of a server that have not ended."""
    now = time.time()
    for path in folder.glob("*-*-*"):
        if path.name.startswith((WAITING, RUNNING)):
            with contextlib.suppress(FileNotFoundError):  # taken or ended meanwhile
                waits = path.name.startswith(WAITING)
                yield OpenStream(path, waits, now - path.stat().st_ctime)
