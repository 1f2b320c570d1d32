"""From postprocessing to the engine: how many responses it has processed.

Triton queues any number of an engine's responses before postprocessing, which processes one after
another. An engine with many streams can generate responses faster than that, and every token would
wait longer than the one before. So the two Python models share a counter, and the engine sends a
response only if few others wait. Meanwhile tokens accumulate, and the next responses carry more.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

#: Responses that may wait for postprocessing.
WINDOW = 32
#: A full window is filled again when so few wait: one response at a time would make the processes
#: take turns, which costs more CPU time than the responses. Fewer leave postprocessing idle.
REFILL = 8
_POLL_S = 0.0005
#: Polls without progress after which the missing responses count as lost: those of cancelled
#: requests never reach postprocessing.
_LOST_POLLS = 20


def _counter(directory: Path) -> memoryview:
    """The shared counter. Only postprocessing writes it, so it needs no lock."""
    descriptor = os.open(directory / "processed", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, 8)  # an error now, not a SIGBUS later
        return memoryview(mmap.mmap(descriptor, 8)).cast("Q")
    finally:
        os.close(descriptor)


class ProcessedResponses:
    """Postprocessing's end."""

    def __init__(self, directory: Path) -> None:
        self._counter = _counter(directory)

    def add(self) -> None:
        """Count a response."""
        self._counter[0] += 1


class ResponseWindow:
    """The engine's end. With several engines the counter has the responses of all, and limits none.

    Call it from one thread.
    """

    def __init__(self, directory: Path) -> None:
        self._counter = _counter(directory)
        self._sent = 0

    def enter(self) -> None:
        """If `WINDOW` responses wait for postprocessing, wait until `REFILL` do; count one more."""
        processed = self._counter[0]
        self._sent = max(self._sent, processed)
        polls = 0
        most = WINDOW - 1 if self._sent - processed < WINDOW else REFILL
        while self._sent - processed > most:
            time.sleep(_POLL_S)
            before, processed = processed, self._counter[0]
            polls = polls + 1 if processed == before else 0
            if polls == _LOST_POLLS:
                self._sent = processed
        self._sent += 1
