"""One server of ours per model repository, by a lock that no killed process leaves behind."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from trt_tokenizers.errors import LaunchError

_DYING = 20.0  # seconds; more than a guardian takes to end what it runs


def _runtime_dir() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and os.access(given, os.W_OK):
        return Path(given) / "trt-tokenizers"
    return Path(os.environ.get("TMPDIR", "/tmp")) / f"trt-tokenizers-{os.getuid()}"


@contextlib.contextmanager
def locked(repository: Path, *, force: bool) -> Iterator[int]:
    """Hold the lock of *repository* while the block runs; gives its file descriptor.

    Whoever inherits the descriptor holds the lock too: the guardian does, so a launcher that was
    killed frees it when its servers are gone.

    Args:
        force: go on without it where another server holds it.

    Raises:
        LaunchError: a server of ours runs on it already.
    """
    key = hashlib.sha256(os.fsencode(repository.resolve())).hexdigest()[:16]
    folder = _runtime_dir()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise LaunchError(f"{folder} belongs to somebody else; remove it")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(folder / f"{key}.lock", flags, 0o600)
    except OSError as error:
        raise LaunchError(
            f"cannot lock the repository in {folder}: {error.strerror}; "
            "set XDG_RUNTIME_DIR to a folder that can be written"
        ) from None
    try:
        if _take(file, force):
            os.ftruncate(file, 0)
            os.pwrite(file, b"%d" % os.getpid(), 0)
        elif not force:
            raise LaunchError(
                f"another launch_server (pid {_holder(file) or 'unknown'}) serves {repository}; "
                "stop that one, or use --force if both are wanted"
            )
        yield file
    finally:
        os.close(file)


def _take(file: int, force: bool) -> bool:
    deadline = time.monotonic() + _DYING
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _holder(file)
            # Killed, and its guardian is still at work; that takes a moment.
            dying = pid is not None and not _alive(pid)
            if force or not dying or time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _alive(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _holder(file: int) -> int | None:
    text = os.pread(file, 20, 0)
    return int(text) if text.isdigit() else None
