"""Which lines of a server's log explain a failure.

Standard library only, because the rank agent imports it with ``python -I -S``.
"""

from __future__ import annotations

import re
from pathlib import Path

#: So many lines explain a failure.
LINES = 20
_SEARCHED = 65_536  # bytes at the end of a log

#: Triton's information lines and tables, progress bars, and the front end's lines of requests.
#: A rank's label may begin a line.
_ROUTINE = re.compile(
    r"(?:\[\d+\] )?(?:I\d{4} |\d{4}-\d\d-\d\dT\S+ I |[+|]|\{|launch: )|.*\d%( Completed )?\|"
)
#: Errors and warnings of a healthy server on a machine without a GPU.
_WITHOUT_A_GPU = (
    "CudaDriverHelper has not been initialized",
    "Failed to initialize NVML",
    "DCGM unable to start",
    "allocate pinned system memory",
    "unable to create stream for ensemble: CUDA driver version is insufficient",
)
_TRITON = re.compile(r"^(?P<head>(?:\[\d+\] )?[EWF]\d{4} .*?\] )\"?(?P<text>.*?)\"?$")


def explaining(line: str) -> list[str]:
    """The lines of text in *line* of a log that may explain a failure; empty if it is routine.

    Triton writes the traceback of a Python model as one line, with ``\\n`` for its ends of lines.
    """
    line = line.rstrip()
    if not line or _ROUTINE.match(line) or any(text in line for text in _WITHOUT_A_GPU):
        return []
    found = _TRITON.match(line)
    if found is None or "\\n" not in found["text"]:
        return [line]
    first, *rest = found["text"].split("\\n")
    return [found["head"] + first, *(text for text in rest if text.strip())]


def read_explanation(log: Path, since: int) -> list[str]:
    """The last lines of the file *log*, after its first *since* bytes, that may explain a failure,
    each once."""
    with log.open("rb") as file:
        size = file.seek(0, 2)
        if file.seek(max(since, size - _SEARCHED)) > since:
            file.readline()  # the rest of a line
        text = file.read().decode(errors="replace")
    parts = [part for line in text.splitlines() for part in explaining(line)]
    return list(dict.fromkeys(parts))[-LINES:]
