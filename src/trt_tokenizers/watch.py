"""What a running tritonserver shows of itself: its log, its readiness, its Python processes.

Each looks at one thing and says what it saw; `trt_tokenizers.supervise` decides what follows.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import os
import re
import select
import signal
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trt_tokenizers.guard import children

_LOADED = re.compile(rb"successfully loaded '([^']+)'")
_LOAD_FAILED = re.compile(rb"failed to load '[^']*'(?: version \d+)?: (?:[\w ]+: )?(?P<why>.+)")
_ERROR = re.compile(rb'(?:^error: |failed to stop server: )(?P<why>[^"]+)')
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
        loaded = _LOADED.search(line)
        return loaded[1].decode(errors="replace") if loaded else None


def copy_output(source: int, target: int, seen: Callable[[bytes], None]) -> None:
    """Copy one file descriptor to another until it ends, and show each piece to *seen* afterwards.

    Whole lines where possible, so that others may write to *target* between two of them; what
    waits for its line end longer than 50 ms goes out as it is. A *target* that fails is given up,
    and reading goes on, so that the writer of *source* never blocks.
    """
    held = b""
    while True:
        if held and not select.select([source], [], [], 0.05)[0]:
            held = _write(target, held)
            continue
        piece = os.read(source, 65536)
        if not piece:
            break
        cut = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
        if cut:
            _write(target, held + piece[:cut])
            held = b""
        held += piece[cut:]
        seen(piece)
    _write(target, held)


def _write(target: int, data: bytes) -> bytes:
    while data:
        try:
            data = data[os.write(target, data) :]
        except BlockingIOError:
            select.select([], [target], [])
        except OSError:
            break  # nobody reads it any more
    return b""


@dataclass(frozen=True)
class Readiness:
    """What the server's HTTP port says.

    Attributes:
        live: it answers at all.
        ready: it is ready and so is every model that was asked to load.
        models: the models that are ready.
        failed: model -> reason, of those that will not become ready.
    """

    live: bool = False
    ready: bool = False
    models: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()


def read_readiness(http_url: str, timeout: float = 2.0) -> Readiness:
    """Ask once. A server that does not answer within *timeout* seconds is not live."""
    address = urllib.parse.urlsplit(http_url).netloc
    try:
        healthy = _ask(address, "GET", "/v2/health/ready", timeout)[0] == 200
        status, body = _ask(address, "POST", "/v2/repository/index", timeout)
        return judge(healthy, json.loads(body)) if status == 200 else Readiness(live=True)
    except (OSError, http.client.HTTPException, ValueError):
        return Readiness()


def _ask(address: str, method: str, path: str, timeout: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()


def judge(healthy: bool, index: list[dict[str, str]]) -> Readiness:
    """A repository index -> readiness. A model counts by its best version; one without a state
    was never asked to load (``--model-control-mode=explicit``)."""
    states: dict[str, set[str]] = {}
    reasons: dict[str, str] = {}
    for entry in index:
        state, reason = entry.get("state", ""), entry.get("reason", "")
        if state and reason != "unloaded":
            states.setdefault(entry["name"], set()).add(state)
            reasons[entry["name"]] = reason.partition("\n")[0]
    ready = tuple(sorted(name for name, s in states.items() if "READY" in s))
    failed = tuple(
        (name, reasons[name]) for name in sorted(states) if states[name] == {"UNAVAILABLE"}
    )
    return Readiness(True, healthy and len(ready) == len(states), ready, failed)


class StubWatch:
    """Notices when a Python model's process has died.

    Triton does not: the server and all its models stay ready, every request to that model fails,
    and the server can no longer stop. But the dead process stays its child, a zombie. One that
    ends as it should is collected within milliseconds, so only one seen twice counts.
    """

    def __init__(self, server_pid: int) -> None:
        self._server = server_pid
        self._models: dict[int, str] = {}
        self._suspects: set[int] = set()

    def look(self) -> str | None:
        """What died, for people, or None. To be called about once a second."""
        zombies: dict[int, int] = {}
        for pid in children(self._server):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if fields[0] == "Z":
                    zombies[pid] = int(fields[-1])  # its exit code is the last field
                elif pid not in self._models:
                    self._models[pid] = _model_of(pid)
        dead = [pid for pid in zombies if pid in self._suspects]
        self._suspects = set(zombies)
        if not dead:
            return None
        model = self._models.get(dead[0], "a Python model")
        return f"the Python process of {model} died ({_how(zombies[dead[0]])})"


def _model_of(pid: int) -> str:
    """The model that a stub runs, from its command line: …/MODEL/VERSION/model.py."""
    for argument in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:]:
        path = Path(os.fsdecode(argument))
        if path.suffix == ".py" and len(path.parts) > 2:
            return f"model {path.parts[-3]!r}"
    return "a Python model"


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return "SIGKILL; the kernel sends it when memory runs out"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
