"""Replace a folder atomically: at any moment either the old or the new one is in place."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
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
    """An empty folder beside *place*. It is removed at the end, unless it was moved.

    Meanwhile other processes that stage in the same parent folder wait.

    Raises:
        RepositoryError: the parent folder cannot be made or written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        parent = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, parent)
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(parent, fcntl.LOCK_EX)
            folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.chmod(0o755)
            yield folder
    except OSError as error:
        raise RepositoryError(
            f"{place} cannot be written: {error.strerror or error} "
            f"({error.filename or place.parent}); "
            "correct the permissions, or choose another folder"
        ) from None


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


def replace_text(path: Path, text: str) -> None:
    """Replace the file at *path*, or what a symbolic link there points to, atomically.

    The scratch file has a random name and is created exclusively, so it follows no link.
    """
    path = path.resolve()
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
        shutil.copymode(path, scratch)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink()
        raise


def copy_tree(source: Path, target: Path, *, links: bool = True) -> None:
    """Copy a folder; large files are shared as hard links.

    Args:
        links: symbolic links stay links; otherwise what they point to is copied.
    """

    def copy(from_path: str, to_path: str) -> str:
        if Path(from_path).stat().st_size > _LARGE:
            with contextlib.suppress(OSError):
                os.link(os.path.realpath(from_path), to_path)
                return to_path
        return shutil.copy2(from_path, to_path)

    shutil.copytree(source, target, symlinks=links, copy_function=copy, dirs_exist_ok=True)


def inside(root: Path, relative: str) -> Path:
    """The path of *relative* in *root*, which nothing leads out of *root*.

    Raises:
        RepositoryError: *relative* is absolute or has ``..``, or one of its folders is a symbolic
            link.
    """
    parts = Path(relative).parts
    if not parts or Path(relative).is_absolute() or ".." in parts:
        raise RepositoryError(f"{root}: {relative!r} is not a path inside it; remove that entry")
    for folder in list(Path(relative).parents)[:-1]:
        if (root / folder).is_symlink():
            raise RepositoryError(
                f"{root / folder} is a symbolic link, through which {relative!r} would change "
                "another folder; replace it by a copy"
            )
    return root / relative


def resolve_links(root: Path, relative: str) -> Path:
    """The path of *relative* in *root*, where links on the way were replaced by copies.

    Afterwards a write there changes nothing outside *root*.
    """
    for part in [*reversed(list(Path(relative).parents)[:-1]), Path(relative)]:
        path = root / part
        if path.is_symlink():
            original = path.resolve()
            path.unlink()
            if original.is_dir():
                copy_tree(original, path, links=False)
    (root / relative).parent.mkdir(parents=True, exist_ok=True)
    return root / relative
