"""What a running tritonserver shows of itself on its own host: its log, its Python processes.

Each looks at one thing and says what it saw; `rank_agent` decides what follows. Standard
library only, as the agent runs before any package of the environment is at hand.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import select
import signal
from collections.abc import Callable
from pathlib import Path

from trt_tokenizers.launcher.process_tree import children
from trt_tokenizers.streams.process_stat import read_stat

_LOADED = re.compile(rb"successfully loaded '([^']+)'")
_LOAD_FAILED = re.compile(rb"failed to load '[^']*'(?: version \d+)?: (?:[\w ]+: )?(?P<why>.+)")
_ERROR = re.compile(rb'(?:^error: |failed to stop server: )(?P<why>[^"]+)')
_IN_FLIGHT = re.compile(rb"Timeout (\d+): Found (\d+) model versions that have in-flight")
#: Seconds after which a dead process that nobody collected counts as one that should not have died.
UNCOLLECTED = 1.0
_TAIL = 20  # lines
_LONGEST_LINE = 16_384  # bytes; a line that never ends must not be kept whole


class LogReader:
    """Reads the server's outputs in pieces as they come.

    Attributes:
        tail: the last lines.
    """

    def __init__(self) -> None:
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL)
        self._rest: dict[int, bytes] = {}
        self._load_failure: str | None = None
        self._error: str | None = None
        self._in_flight: tuple[int, int] | None = None  # seconds left, models

    @property
    def drained(self) -> bool:
        """Every inference had finished when the server, asked to stop, gave up waiting.

        Triton waits for HTTP connections first, also for idle ones that a client keeps open, and
        then has no time left for itself: it counts the running inferences once, says «Exit timeout
        expired» and exits with 1, whether requests were cut off or not. That count tells. Where it
        was made with time left, a model hung afterwards: a failure.
        """
        return self._in_flight == (0, 0) and "Exit timeout expired" in (self._error or "")

    @property
    def reason(self) -> str | None:
        """Why the server ended, as far as it said: the first model that failed, else its last
        error."""
        return self._load_failure or self._error

    def feed(self, piece: bytes, output: int) -> list[str]:
        """The names of the models that *piece* of the output number *output* says are loaded."""
        *lines, rest = (self._rest.get(output, b"") + piece).split(b"\n")
        self._rest[output] = rest[-_LONGEST_LINE:]
        return [name for line in lines if (name := self._read(line)) is not None]

    def _read(self, line: bytes) -> str | None:
        self.tail.append(line.decode(errors="replace").rstrip())
        if self._load_failure is None and (failed := _LOAD_FAILED.search(line)):
            # Triton writes the Python traceback into the same line; its first line is the reason.
            model = line[failed.start() :].split(b"'")[1].decode(errors="replace")
            why = failed["why"].split(b"\\n")[0].rstrip(b'"').decode(errors="replace")
            self._load_failure = f"model {model!r}: {why}"
        elif error := _ERROR.search(line):
            self._error = error["why"].decode(errors="replace")
        elif running := _IN_FLIGHT.search(line):
            self._in_flight = int(running[1]), int(running[2])
        loaded = _LOADED.search(line)
        return loaded[1].decode(errors="replace") if loaded else None


def copy_output(source: int, take: Callable[[bytes], None], patience: float | None) -> None:
    """Hand what comes from a file descriptor to *take* until it ends.

    Whole lines, so that others may write between two of them. What waits for its line end longer
    than *patience* seconds goes out as it is; None waits until the end, or for 16 KB.
    """
    held = b""
    while True:
        if held and not select.select([source], [], [], patience)[0]:
            take(held)
            held = b""
            continue
        piece = os.read(source, 65536)
        if not piece:
            break
        held += piece
        cut = max(held.rfind(b"\n"), held.rfind(b"\r")) + 1
        if not cut and len(held) > _LONGEST_LINE:
            cut = len(held)
        if cut:
            take(held[:cut])
            held = held[cut:]
    if held:
        take(held)


def write_all(target: int, data: bytes) -> None:
    """Write, waiting where it must. A *target* that fails is given up, so that whoever feeds us
    never blocks."""
    while data:
        try:
            data = data[os.write(target, data) :]
        except BlockingIOError:
            select.select([], [target], [])
        except OSError:
            break  # nobody reads it any more


class StubWatch:
    """Notices when a Python model's process has died.

    Triton does not: the server and all its models stay ready, every request to that model fails,
    and the server can no longer stop. But the dead process stays its child, a zombie. One that
    ends as it should is collected within milliseconds, so only one that stays counts.
    """

    def __init__(self, server_pid: int) -> None:
        self.server = server_pid
        self._models: dict[int, str] = {}
        self._suspects: dict[int, float] = {}

    def look(self, now: float) -> str | None:
        """What died at least `UNCOLLECTED` seconds before *now*, for people, or None. To be called
        more often than that, as a model is known only if its process was seen alive."""
        zombies: dict[int, int] = {}
        for pid in children(self.server):
            stat = read_stat(pid)
            if stat is not None and stat.zombie:
                zombies[pid] = stat.wait_status
            elif pid not in self._models and (model := _model_of(pid)):
                self._models[pid] = model
        self._suspects = {pid: self._suspects.get(pid, now) for pid in zombies}
        dead = [pid for pid, since in self._suspects.items() if now - since >= UNCOLLECTED]
        if not dead:
            return None
        model = self._models.get(dead[0], "a Python model")
        return f"the Python process of {model} died ({_how(zombies[dead[0]])})"


def _model_of(pid: int) -> str | None:
    """The model that a stub runs, from its command line: …/MODEL/VERSION/model.py. None if it
    is not one, or not yet: between fork and exec it has the server's command line."""
    with contextlib.suppress(OSError):
        for argument in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:]:
            path = Path(os.fsdecode(argument))
            if path.suffix == ".py" and len(path.parts) > 2:
                return f"model {path.parts[-3]!r}"
    return None


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return "SIGKILL; the kernel sends it when memory runs out"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
