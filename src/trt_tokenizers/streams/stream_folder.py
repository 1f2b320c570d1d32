"""Where the processes of one tritonserver meet: its stream folder in shared memory.

Standard library only: the rank agent imports it before any package of the environment.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

#: Shared memory, where Triton and its Python models meet.
SHM = Path("/dev/shm")
#: The mark.
MARK = "draining"
#: The name that `stream_folder` gives.
STREAM_FOLDER = re.compile(r"trt-tokenizers-\d+-\d+$")


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
