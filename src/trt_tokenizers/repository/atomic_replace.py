"""Put a folder in the place of another one: the old one or the new one is there, at any moment."""

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
_LARGE = 1 << 20  # bytes; such files are linked, not copied


@contextlib.contextmanager
def staging(place: Path) -> Iterator[Path]:
    """An empty folder beside *place*, which is gone afterwards unless it was moved."""
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(new: Path, place: Path) -> None:
    """Move the folder *new* to *place*; what was there is then at *new*, if there was anything.

    Raises:
        RepositoryError: *place* cannot be replaced, as a mount point cannot.
    """
    try:
        if place.exists():
            _exchange(new, place)
        else:
            new.rename(place)
    except OSError as error:
        what = str(error.strerror)
        if error.errno in (errno.EBUSY, errno.EXDEV):
            what += ": it is a mount point, or of another layer"
        raise RepositoryError(
            f"{place} cannot be replaced ({what}); work on a copy of it, or where its parent folder"
            " can be written"
        ) from None


def _exchange(one: Path, other: Path) -> None:
    """renameat2(2), where kernel and file system have it; else two renames."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        paths = os.fsencode(one), os.fsencode(other)
        if call(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number))
    aside = Path(tempfile.mkdtemp(prefix=f".{other.name}.old.", dir=other.parent))
    other.rename(aside)  # over an empty folder
    one.rename(other)
    aside.rename(one)


def copy_tree(source: Path, target: Path) -> None:
    """A copy of a folder: links stay links, and large files are shared by hard links."""

    def copy(one: str, other: str) -> str:
        if Path(one).stat().st_size > _LARGE:
            with contextlib.suppress(OSError):
                os.link(one, other)
                return other
        return shutil.copy2(one, other)

    shutil.copytree(source, target, symlinks=True, copy_function=copy, dirs_exist_ok=True)
