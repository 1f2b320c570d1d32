"""Observes the thread with which a stub, a Python model's process, shows Triton that it lives.

The thread sets a flag in shared memory every 0.3 s. While Triton waits for a stub, it clears the
flag and waits 1 s. If the flag is still clear, Triton gives the stub up, even if it only lacks a
processor: it frees the memory of the request and puts a message into the stub's queue. Then the
stub crashes, or answers requests with the answers of others.

Standard library only, because the rank agent imports it with ``python -I -S``.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from trt_tokenizers.streams.process_stat import read_stat

#: Seconds without a sign after which Triton can have given the stub up. A shorter gap is harmless,
#: and from here on the risk grows with the gap. Whether Triton waits for the stub does not show: an
#: idle stub also wakes once a second. So a gap counts whether a request runs or not.
STARVED_S = 1.0
#: Seconds that the thread sleeps by itself between two settings of the flag.
_PERIOD_S = 0.3
#: Longest time between two looks that counts. More means that this process did not run either, for
#: example in a paused container: then the stub had no chance to run.
_LONGEST_LOOK_S = 0.3


class HealthThread:
    """The health thread of one stub. Call `look` several times a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._task: Path | None = None
        self._counts = (0, 0, 0)
        self._looked = 0.0
        self._idle = 0.0

    def look(self, now: float) -> float:
        """Seconds without a sign, although the thread should have run; 0 if fewer than 1."""
        elapsed, self._looked = min(now - self._looked, _LONGEST_LOOK_S), now
        self._task = self._task or self._find()
        if self._task is None:
            return 0.0
        ran, waited, times = self._counts
        try:
            # Nanoseconds that it ran, nanoseconds that it waited for a processor, number of runs.
            self._counts = tuple(map(int, (self._task / "schedstat").read_text().split()))  # type: ignore[assignment]
            state = (self._task / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # the thread has ended, or the kernel lacks CONFIG_SCHED_INFO
            return 0.0
        if self._counts[0] != ran:
            self._idle = 0.0
            wait = (self._counts[1] - waited) / 1e9 / max(1, self._counts[2] - times)
            return wait + _PERIOD_S if ran and wait >= STARVED_S - _PERIOD_S else 0.0
        self._idle += elapsed
        # A sleeping thread (S) waits by itself; this one waits for a processor or is stopped.
        return self._idle if self._idle >= STARVED_S and state in "RDTt" else 0.0

    def _find(self) -> Path | None:
        """The stub starts it before any other thread."""
        with contextlib.suppress(OSError):
            tasks = [
                t for t in Path(f"/proc/{self._pid}/task").iterdir() if t.name != str(self._pid)
            ]
            starts = [(stat.started, task) for task in tasks if (stat := read_stat(task))]
            return min(starts)[1] if starts else None
        return None
