"""The processes that vLLM starts: they end with this one, and leave no files.

vLLM starts its processes with multiprocessing's method "spawn", and each of them may start more.
Each imports the main module of its parent first. `prepare` makes this file that main module, so
that `_enter` runs first in each of them. Standard library only, because they all import it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import locale
import logging
import multiprocessing
import multiprocessing.shared_memory
import multiprocessing.synchronize
import os
import re
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Any

_SHM_PREFIX = "TRT_TOKENIZERS_VLLM_SHM_PREFIX"
_ERRORS = "TRT_TOKENIZERS_VLLM_ERRORS"
_PR_SET_PDEATHSIG = 1


def prepare(folder: Path) -> Path:
    """Set up this process so that vLLM can start its processes from a Triton model.

    Args:
        folder: vLLM puts its sockets there; its path must be short.

    Returns:
        The file for `first_error`.
    """
    # The stub of Triton's Python backend is no interpreter that could run them.
    python = Path(sys.prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if Path(sys.executable or "").stem.rstrip("0123456789.") != "python" and python.is_file():
        sys.executable = str(python)
        multiprocessing.set_executable(str(python))
    # With the locale C the stub would read vLLM's files as ASCII.
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    sys.modules["__main__"].__spec__ = importlib.util.find_spec(__name__)
    errors = folder / f"errors-{os.getpid()}"
    os.environ[_ERRORS] = str(errors)
    os.environ["VLLM_RPC_BASE_PATH"] = str(folder)
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # this process has many threads
    # The launcher removes everything in shared memory with the prefix of its server.
    command_line = Path("/proc/self/cmdline").read_bytes().decode(errors="replace")
    if prefix := re.search(r"\0(trt-launch-\w+-r\d+-)", command_line):
        os.environ[_SHM_PREFIX] = f"{prefix[1]}vllm-"
    return errors


def first_error(errors: Path, since: float) -> str | None:
    """The first error that one of the processes logged after *since*, in one line.

    The first one is the cause; the other processes only report that they lost a peer.

    Args:
        errors: the result of `prepare`.
        since: value of time.monotonic().
    """
    with contextlib.suppress(OSError):
        for line in errors.read_text(encoding="utf-8").splitlines():
            logged_at, _, text = line.partition(" ")
            if float(logged_at) >= since:
                return text
    return None


def _enter() -> None:
    """Runs first in each process of vLLM."""
    parent = multiprocessing.parent_process()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent.pid:  # it died before the line above
        os._exit(1)
    if prefix := os.environ.get(_SHM_PREFIX):
        _name_shared_memory(prefix)
    if errors := os.environ.get(_ERRORS):
        _record_errors(Path(errors))


def _name_shared_memory(prefix: str) -> None:
    """Let the names of segments and semaphores begin with *prefix*, so the launcher removes them.

    multiprocessing removes them itself unless all processes are killed at once.
    """

    def segment_name() -> str:
        return f"/{prefix}{secrets.token_hex(8)}"

    def semaphore_name() -> str:
        name = segment_name()  # its file is /dev/shm/sem.NAME; the launcher follows this link
        with contextlib.suppress(OSError):
            Path(f"/dev/shm{name}").symlink_to(f"/dev/shm/sem.{name[1:]}")
        return name

    multiprocessing.shared_memory._make_filename = segment_name  # type: ignore[attr-defined]
    multiprocessing.synchronize.SemLock._make_name = staticmethod(  # type: ignore[attr-defined]
        semaphore_name
    )


def _record_errors(errors: Path) -> None:
    """Write each logged exception to *errors* as one line: time and text."""
    make_record = logging.getLogRecordFactory()

    def record(*arguments: Any, **more: Any) -> logging.LogRecord:
        made = make_record(*arguments, **more)
        if made.levelno >= logging.ERROR and made.exc_info and made.exc_info[1] is not None:
            error = made.exc_info[1]
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            with contextlib.suppress(OSError), errors.open("a", encoding="utf-8") as file:
                file.write(f"{time.monotonic()} {text}\n")
        return made

    logging.setLogRecordFactory(record)


if __name__ == "__mp_main__":
    _enter()
