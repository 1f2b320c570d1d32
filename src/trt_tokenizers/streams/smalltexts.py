"""Short texts by name on tmpfs, for what `slots` has no room for and for keys from elsewhere.

A text is the target of a symbolic link that leads nowhere: one system call to write it, whole or
not at all, one to read it, and no page of memory below 128 characters. One too long for a link is a
file, which is not to be read before `put` returns. Standard library only, as `slots`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

#: Linux takes so many bytes as a link's target, with the one that ends it.
LINK_BYTES = 4096
_MOST = 65536  # texts in a folder
_WAITING = "*.[0-9]*"
_TAKEN = "open-*"

# Plain system calls: pathlib and file objects take longer than all else on the way of a request.


class SmallTexts:
    """Texts by key and row in a folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._prefix = f"{directory}/"

    def put(self, key: int, row: int, text: str) -> bool:
        """False if there is one already.

        Args:
            text: ASCII, not empty, without NUL.

        Raises:
            FileNotFoundError: there is no folder.
            OSError: tmpfs is full; nothing is left.
        """
        path = self._path(key, row)
        try:
            if len(text) < LINK_BYTES:
                os.symlink(text, path)  # noqa: PTH211
                return True
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
        except OSError:
            Path(path).unlink(missing_ok=True)
            raise
        return True

    def has(self, key: int, row: int) -> bool:
        """Whether a text waits."""
        return os.path.lexists(self._path(key, row))

    def take(self, key: int, row: int) -> str | None:
        """The text, which waits no longer; None if none waits. Bytes that nobody here wrote are
        surrogates."""
        path = self._path(key, row)
        try:
            text = os.readlink(path)  # noqa: PTH115
        except FileNotFoundError:
            return None
        except OSError:  # a file
            text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
        with contextlib.suppress(FileNotFoundError):  # swept meanwhile
            os.rename(path, self._taken_path(key, row))  # noqa: PTH104
            self.touch(key, row)
        return text

    def discard(self, key: int, row: int) -> None:
        """Remove a text that waits."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(key, row))  # noqa: PTH108

    def touch(self, key: int, row: int) -> None:
        """What took the text goes on."""
        with contextlib.suppress(FileNotFoundError):  # there was none, or it was swept
            os.utime(self._taken_path(key, row), follow_symlinks=False)

    def release(self, key: int, row: int) -> None:
        """Remove a text that was taken."""
        with contextlib.suppress(FileNotFoundError):  # there was none, or it was swept
            os.unlink(self._taken_path(key, row))  # noqa: PTH108

    def sweep(self, max_age_s: float) -> None:
        """Remove the texts that were not heard of for so long, and the oldest of too many."""
        texts = sorted((heard, path) for path, _, heard in _texts(self._directory))
        oldest = time.time() - max_age_s
        for number, (heard, path) in enumerate(texts):
            if heard < oldest or number < len(texts) - _MOST:
                path.unlink(missing_ok=True)

    def _path(self, key: int, row: int) -> str:
        return f"{self._prefix}{key}.{row}"

    def _taken_path(self, key: int, row: int) -> str:
        return f"{self._prefix}open-{key}-{row}"


def found(directory: Path) -> Iterator[tuple[bool, float]]:
    """Every text in the folder: whether it waits, and for how many seconds nothing was heard."""
    now = time.time()
    for _, waits, heard in _texts(directory):
        yield waits, now - heard


def _texts(directory: Path) -> Iterator[tuple[Path, bool, float]]:
    for pattern in (_WAITING, _TAKEN):
        for path in directory.glob(pattern):
            with contextlib.suppress(FileNotFoundError):  # taken or ended meanwhile
                yield path, pattern == _WAITING, path.lstat().st_mtime
