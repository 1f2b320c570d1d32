"""The stream folder: the processes of one tritonserver share it in shared memory.

Standard library only, because the rank agent imports it with ``python -I -S``.
"""

from __future__ import annotations

import os
from pathlib import Path

from trt_tokenizers.streams.process_stat import read_stat

#: Shared memory, which Triton and its Python models use too.
SHM = Path("/dev/shm")
#: Name of the file that makes preprocessing refuse new requests.
MARK = "draining"


def stream_folder(server_pid: int) -> Path:
    """Path of the stream folder of a tritonserver that runs or is a zombie.

    It is in shared memory, or among the temporary files if shared memory is not writable. The name
    includes the start time of the process, because process ids are reused and containers that share
    /dev/shm may have equal ones.
    """
    root = SHM if os.access(SHM, os.W_OK) else Path(os.environ.get("TMPDIR", "/tmp"))
    stat = read_stat(server_pid)
    return root / f"trt-tokenizers-{server_pid}-{stat.started if stat else 0}"
