"""What a launch leaves in shared memory and elsewhere, and its removal.

Every name of a launch in /dev/shm begins with a prefix of its own. Other files that a launch must
remove are registered there as a symbolic link with this prefix, so any process that survives can
remove them. Standard library only, because the rank agent imports it with ``python -I -S``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from trt_tokenizers.streams.stream_folder import SHM


def remove_with(shm_prefix: str, path: Path) -> None:
    """Register the file or folder *path* for removal by `sweep` of *shm_prefix*."""
    with contextlib.suppress(OSError):
        (SHM / f"{shm_prefix}remove-{path.name}").symlink_to(path)


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
            if path.is_symlink() and path.lstat().st_uid == os.geteuid():
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
