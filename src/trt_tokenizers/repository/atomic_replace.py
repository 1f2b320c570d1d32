"""Replace a folder atomically: at any moment either the old or the new one is in place."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trt_tokenizers.errors import RepositoryError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_LARGE = 1 << 20  # bytes; larger files are hard-linked, not copied


@contextlib.contextmanager
def staging(place: Path) -> Iterator[Path]:
    """An empty folder beside *place*. It is removed at the end, unless it was moved."""
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(new: Path, place: Path) -> None:
    """Move the folder *new* to *place*. An old folder at *place* moves to *new*.

    Raises:
        RepositoryError: *place* cannot be replaced, for example a mount point.
    """
    try:
        if place.exists():
            _exchange(new, place)
        else:
            new.rename(place)
    except OSError as error:
        what = str(error.strerror)
        if error.errno in (errno.EBUSY, errno.EXDEV):
            what += ": it is a mount point, or in another layer"
        raise RepositoryError(
            f"{place} cannot be replaced ({what}); work on a copy in a folder that you can write"
        ) from None


def _exchange(new: Path, place: Path) -> None:
    """Exchange two folders by renameat2(2), or by renames if kernel or file system lack it."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        paths = os.fsencode(new), os.fsencode(place)
        if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number))
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.old.", dir=place.parent))
    place.rename(aside)  # replaces the empty folder
    new.rename(place)
    aside.rename(new)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder. Symbolic links stay links; large files are shared as hard links."""

    def copy(from_path: str, to_path: str) -> str:
        if Path(from_path).stat().st_size > _LARGE:
            with contextlib.suppress(OSError):
                os.link(from_path, to_path)
                return to_path
        return shutil.copy2(from_path, to_path)

    shutil.copytree(source, target, symlinks=True, copy_function=copy, dirs_exist_ok=True)
