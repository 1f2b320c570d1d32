"""What belongs to one stream: its key, its end, its context from pre- to postprocessing.

Triton passes nothing from preprocessing to postprocessing beside the engine's own tensors, so
what postprocessing has to know of a stream lies in a file on tmpfs, named by the stream's key:
written once, read once, removed. The folder is private to the server: it is named after the
tritonserver process, which is the parent of every Python model.
"""

from __future__ import annotations

import enum
import json
import os
import secrets
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Keys are below 2**53: a JSON number holds no more without rounding.
KEY_BITS = 53
_PREFIX = "trt-tokenizers-"


class FinishReason(enum.IntEnum):
    """Why a stream ended. The numbers travel as the engine's output tensor ``finish_reason``."""

    NOT_FINISHED = 0
    STOP = 1
    LENGTH = 2
    CANCELLED = 3

    @property
    def text(self) -> str:
        """What clients read: stop, length, cancelled, or nothing while the stream runs."""
        return self.name.lower() if self else ""


@dataclass(frozen=True, slots=True)
class StreamContext:
    """What postprocessing has to know of one sequence.

    Attributes:
        num_input_tokens: ids of the prompt.
        end_ids: ids that end the answer and are no part of its text.
        stop_strings: texts that end the answer.
        include_stop: whether the stop string that ended it stays in the text.
        skip_special_tokens: whether special tokens are left out of the text.
        echo: the prompt's text, to stand before the answer; empty if not asked for.
    """

    num_input_tokens: int
    end_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    echo: str = ""


class ContextStore:
    """Contexts by key, shared by the Python models of one server."""

    def __init__(self, directory: Path | None = None, max_age_s: float = 3600.0) -> None:
        """
        Args:
            directory: where; by default a folder on tmpfs named after the parent process.
            max_age_s: a context that nobody took for so long is removed by `sweep`.
        """
        self._directory = directory or default_directory(os.getppid())
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._max_age_s = max_age_s
        self._next_sweep = time.monotonic() + max_age_s / 4

    def put(self, context: StreamContext) -> int:
        """Store *context* under a new key, which no stream of this server has."""
        data = json.dumps(asdict(context)).encode()
        while True:
            key = secrets.randbits(KEY_BITS)
            try:
                descriptor = os.open(self._path(key), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            except FileNotFoundError:  # somebody emptied /dev/shm
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                continue
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)
            return key

    def take(self, key: int) -> StreamContext | None:
        """The context of *key*, once; None if there is none any more."""
        path = Path(self._path(key))
        try:
            data = json.loads(path.read_bytes())
            path.unlink()
        except FileNotFoundError:
            return None
        # JSON has no tuples.
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return StreamContext(**fields)

    def discard(self, key: int) -> None:
        """Remove the context of a stream that will not reach postprocessing."""
        Path(self._path(key)).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what is older than ``max_age_s``; looks only now and then, so call it freely."""
        if time.monotonic() < self._next_sweep:
            return
        self._next_sweep = time.monotonic() + self._max_age_s / 4
        oldest = time.time() - self._max_age_s
        for entry in os.scandir(self._directory):
            if entry.stat().st_mtime < oldest:
                Path(entry.path).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder; the last model of a server to leave finds nothing, which is fine."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _path(self, key: int) -> str:
        return f"{self._directory}/{key}"


def default_directory(server_pid: int) -> Path:
    """The stream folder of the tritonserver with this process id."""
    root = Path("/dev/shm")
    if not os.access(root, os.W_OK):
        root = Path(os.environ.get("TMPDIR", "/tmp"))
    return root / f"{_PREFIX}{server_pid}"
