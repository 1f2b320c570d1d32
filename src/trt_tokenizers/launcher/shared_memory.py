"""What a launch leaves in shared memory and elsewhere, and its removal.

Every name of a launch in /dev/shm begins with a prefix of its own. Other files that a launch must
remove are registered there as a symbolic link with this prefix, so any process that survives can
remove them. Standard library only, because the rank agent imports it with ``python -I -S``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from trt_tokenizers.launcher.process_tree import any_running
from trt_tokenizers.streams.stream_folder import SHM

#: Triton ignores TMPDIR here.
_ENVIRONMENTS = Path("/tmp/python_env_*")
_UNOWNED = "if-none-runs-"


def remove_with(shm_prefix: str, path: Path) -> None:
    """Register the file or folder *path* for removal by `sweep` of *shm_prefix*."""
    with contextlib.suppress(OSError):
        (SHM / f"{shm_prefix}remove-{path.name}").symlink_to(path)


def make_private(shm_prefix: str) -> str | None:
    """Let only their owner read the files of a server in shared memory, which hold its prompts.

    Triton creates them readable by all users, whatever the umask.

    Returns:
        What is wrong if that is not possible, or None.
    """
    try:
        for path in SHM.glob(f"{shm_prefix}*"):
            with contextlib.suppress(FileNotFoundError):
                mode = path.lstat().st_mode
                if mode & 0o077 and not stat.S_ISLNK(mode):
                    path.chmod(stat.S_IMODE(mode) & 0o700)
    except OSError as error:
        return (
            f"other users of this host can read the prompts in {SHM}/{shm_prefix}*: "
            f"{error.strerror}; let the launcher own these files"
        )
    return None


def remove_environments(shm_prefix: str, since: float) -> None:
    """Register the folders for the models' environments that Python backends made after *since*.

    Triton makes one per server, and leaves it if the server is killed. Nothing shows which server
    made it, and a server without its folder aborts at its end. So if there are several, `sweep`
    removes them only when no tritonserver runs on this host.

    Args:
        since: seconds since the epoch.
    """
    found = []
    for path in _ENVIRONMENTS.parent.glob(_ENVIRONMENTS.name):
        with contextlib.suppress(OSError):
            state = path.lstat()
            if state.st_uid == os.geteuid() and state.st_mtime >= since:
                found.append(path)
    for path in found:
        remove_with(shm_prefix + ("" if len(found) == 1 else _UNOWNED), path)


def sweep(shm_prefix: str, folders: set[Path]) -> None:
    """Remove what dead servers left. Missing files are not an error.

    Args:
        shm_prefix: everything in shared memory with this prefix is removed, and what `remove_with`
            registered under it.
        folders: the stream folders of the dead servers.
    """
    for path in SHM.glob(shm_prefix + "*") if shm_prefix else ():
        # Any user may create a link here, so follow only our own.
        with contextlib.suppress(OSError):
            needed = _UNOWNED in path.name and any_running("tritonserver")
            if path.is_symlink() and path.lstat().st_uid == os.geteuid() and not needed:
                _remove(path.readlink())
        _remove(path)
    for folder in folders:
        _remove(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
