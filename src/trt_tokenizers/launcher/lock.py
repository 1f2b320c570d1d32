"""One launch per model repository: a file lock that the kernel frees when the launcher dies."""

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
from trt_tokenizers.launcher.process_tree import running_with
from trt_tokenizers.launcher.shared_memory import sweep

#: Seconds to wait for the servers of a killed launcher; their agents need less to end them.
_DYING = 20.0


def _runtime_dir() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and os.access(given, os.W_OK):
        return Path(given) / "trt-tokenizers"
    return Path(os.environ.get("TMPDIR", "/tmp")) / f"trt-tokenizers-{os.getuid()}"


@contextlib.contextmanager
def locked(repository: Path, shm_prefix: str, *, force: bool) -> Iterator[None]:
    """Hold the lock of *repository* while the block runs.

    If the last launcher was killed, this waits until its servers have ended, and removes what is
    left of them in shared memory.

    Args:
        shm_prefix: begins the command lines and the shared memory of this launch.
        force: continue without the lock if another launcher holds it.

    Raises:
        LaunchError: another launcher holds it.
    """
    key = hashlib.sha256(os.fsencode(repository.resolve())).hexdigest()[:16]
    folder = _runtime_dir()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise LaunchError(f"{folder} belongs to another user; remove it")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(folder / f"{key}.lock", flags, 0o600)
    except OSError as error:
        raise LaunchError(
            f"cannot lock the repository in {folder}: {error.strerror}; "
            "set XDG_RUNTIME_DIR to a writable folder"
        ) from None
    try:
        pid, _, last_prefix = os.pread(file, 200, 0).decode(errors="replace").partition(" ")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not force:
                raise LaunchError(
                    f"another launch_server (pid {pid or 'unknown'}) serves {repository}; "
                    "stop it, or use --force to run both"
                ) from None
        else:
            if last_prefix:
                _wait_for_end(last_prefix)
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()} {shm_prefix}".encode(), 0)
        yield
    finally:
        os.close(file)


def _wait_for_end(shm_prefix: str) -> None:
    deadline = time.monotonic() + _DYING
    while running_with(shm_prefix) and time.monotonic() < deadline:
        time.sleep(0.05)
    sweep(shm_prefix, set())
