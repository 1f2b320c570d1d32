"""Observes a running tritonserver on its own host: its log and its Python processes.

`rank_agent` decides what follows. Standard library only, because the rank agent imports it with
``python -I -S``.
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

from trt_tokenizers.launcher.health_thread import HealthThread
from trt_tokenizers.launcher.log_lines import LINES, explaining
from trt_tokenizers.launcher.process_tree import children
from trt_tokenizers.streams.process_stat import handles, read_stat

_LOADED = re.compile(rb"successfully loaded '([^']+)'")
_LOAD_FAILED = re.compile(rb"failed to load '[^']*'(?: version \d+)?: (?:[\w ]+: )?(?P<why>.+)")
_ERROR = re.compile(rb'(?:^error: |failed to stop server: |^  what\(\):\s+)(?P<why>[^"]+)')
_IN_FLIGHT = re.compile(rb"Timeout (\d+): Found (\d+) model versions that have in-flight")
_UNLOADING = re.compile(rb"Timeout \d+: Found \d+ live models and 0 in-flight")
#: Seconds after which a zombie counts as a failed process.
UNCOLLECTED = 1.0
_SEARCH_EVERY = 0.25  # seconds; a server has hundreds of threads, whose children are searched
_LONGEST_LINE = 16_384  # bytes; bounds the memory for a line without an end


class LogReader:
    """Parses the server's output, fed in pieces of any size.

    Attributes:
        tail: the last lines that may explain a failure, each once.
        unloading: whether a stopping server has finished all requests and unloads its models. An
            idle gRPC stream keeps the server, and perhaps the ensemble, from ending.
    """

    def __init__(self) -> None:
        self.tail: collections.deque[str] = collections.deque(maxlen=LINES)
        self.unloading = False
        self._partial: dict[int, bytes] = {}
        self._load_failure: str | None = None
        self._error: str | None = None
        self._in_flight: tuple[int, int] | None = None  # seconds left, models

    @property
    def drained(self) -> bool:
        """Whether all inferences had finished when a stopping server reached its exit timeout.

        Triton first waits for HTTP connections, also for idle ones that a client keeps open. If
        they use up its exit timeout, it counts the running inferences once, logs "Exit timeout
        expired" and exits with 1, whether it aborted requests or not. A count of 0 with 0 s left
        means that it did not. A count with time left means that a model hung afterwards: a failure.
        """
        return self._in_flight == (0, 0) and "Exit timeout expired" in (self._error or "")

    @property
    def reason(self) -> str | None:
        """Why the server ended, if logged: the first model that failed, else the last error."""
        return self._load_failure or self._error

    def feed(self, piece: bytes, output: int) -> list[str]:
        """Parse *piece* of the output with number *output*; return the models it reports as
        loaded."""
        *lines, rest = (self._partial.get(output, b"") + piece).split(b"\n")
        self._partial[output] = rest[-_LONGEST_LINE:]
        return [name for line in lines if (name := self._read(line)) is not None]

    def _read(self, line: bytes) -> str | None:
        # Triton repeats the traceback of a model that fails.
        text = explaining(line.decode(errors="replace"))
        self.tail.extend(part for part in text if part not in self.tail)
        if self._load_failure is None and (failed := _LOAD_FAILED.search(line)):
            # Triton logs the whole Python traceback on this line; its first line is the reason.
            model = line[failed.start() :].split(b"'")[1].decode(errors="replace")
            why = failed["why"].split(b"\\n")[0].rstrip(b'"').decode(errors="replace")
            self._load_failure = f"model {model!r}: {why}"
        elif error := _ERROR.search(line):
            self._error = error["why"].decode(errors="replace")
        elif running := _IN_FLIGHT.search(line):
            self._in_flight = int(running[1]), int(running[2])
        elif _UNLOADING.search(line):
            self.unloading = True
        loaded = _LOADED.search(line)
        return loaded[1].decode(errors="replace") if loaded else None


def copy_output(source: int, take: Callable[[bytes], None], patience: float | None) -> None:
    """Read a file descriptor until its end and pass the data to *take* in whole lines.

    Args:
        patience: seconds after which an incomplete line is passed on; None waits for the line end,
            the end of the data, or 16 KB.
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
    """Write all *data*, blocking if necessary. Drop the data if *target* fails, so the source
    never blocks."""
    while data:
        try:
            data = data[os.write(target, data) :]
        except BlockingIOError:
            select.select([], [target], [])
        except OSError:
            break  # the reader is gone


class StubWatch:
    """Detects a Python model's process, a stub, that has died or gets no processor.

    Triton does not detect a dead one: the server and all its models stay ready, every request to
    that model fails, and the server can no longer stop. The dead process remains a zombie child.
    Triton collects a process that ends normally within milliseconds: only a lasting zombie counts.
    What a stub without a processor does is in `health_thread`.

    Attributes:
        stubs: process id -> model, of every stub seen so far.
    """

    def __init__(self, server_pid: int) -> None:
        self.server = server_pid
        self.stubs: dict[int, str] = {}
        self._suspects: dict[int, float] = {}
        self._threads: dict[int, HealthThread] = {}
        self._searched = -_SEARCH_EVERY
        self._serves = False

    @property
    def any_running(self) -> bool:
        """Whether a stub runs."""
        return bool(self._threads)

    def look(self, now: float) -> str | None:
        """Describe a process that died at least `UNCOLLECTED` seconds before *now*, or that did not
        run for about a second while the server serves; or None.

        Call this every 0.1 s: the model of a process is known only if it was seen alive.
        """
        if now - self._searched >= _SEARCH_EVERY:
            self._searched = now
            if dead := self._search(now):
                return dead
        for pid, thread in self._threads.items():
            seconds = thread.look(now)
            if seconds and self._serves:
                return (
                    f"the Python process of {self.stubs[pid]} did not run for {seconds:.1f} s, and "
                    "Triton may now send its answers to other requests; give the server more "
                    "processors, or CAP_SYS_NICE"
                )
        return None

    def _search(self, now: float) -> str | None:
        zombies: dict[int, int] = {}
        found = children(self.server)
        for pid in found:
            stat = read_stat(pid)
            if stat is not None and stat.zombie:
                zombies[pid] = stat.wait_status
            elif pid not in self.stubs and (model := _model_of(pid)):
                self.stubs[pid] = model
                self._threads[pid] = HealthThread(pid)
        self._threads = {p: t for p, t in self._threads.items() if p in found and p not in zombies}
        # Triton handles SIGTERM once it has loaded its models.
        self._serves = self._serves or handles(self.server, signal.SIGTERM)
        self._suspects = {pid: self._suspects.get(pid, now) for pid in zombies}
        dead = [pid for pid, since in self._suspects.items() if now - since >= UNCOLLECTED]
        if not dead:
            return None
        model = self.stubs.get(dead[0], "a Python model")
        return f"the Python process of {model} died ({_how(zombies[dead[0]])})"


def _model_of(pid: int) -> str | None:
    """The model that a stub runs, from its command line: …/MODEL/VERSION/model.py. None if the
    process is not a stub, or not yet: between fork and exec it has the server's command line."""
    with contextlib.suppress(OSError):
        for argument in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:]:
            path = Path(os.fsdecode(argument))
            if path.suffix == ".py" and len(path.parts) > 2:
                return f"model {path.parts[-3]!r}"
    return None


def _how(status: int) -> str:
    """How a process with this wait status ended."""
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return "SIGKILL; the kernel sends it when memory runs out"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
