"""Short texts by name on tmpfs.

A text is the target of a symbolic link that leads nowhere: one system call to write it, whole or
not at all, one to read it, and no page of memory below 128 characters. One too long for a link is a
file, which is not to be read before `write_new` returns.
"""

from __future__ import annotations

import os
from pathlib import Path

#: Linux takes so many bytes as a link's target, with the one that ends it.
LINK_BYTES = 4096

# Plain system calls: pathlib and file objects take longer than all else on the way of a request.


def write_new(path: str, text: str) -> None:
    """
    Args:
        text: ASCII, not empty, without NUL.

    Raises:
        FileExistsError: there is one.
        FileNotFoundError: there is no such folder.
        OSError: tmpfs is full; nothing is left.
    """
    if len(text) < LINK_BYTES:
        os.symlink(text, path)  # noqa: PTH211
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
    except OSError:
        Path(path).unlink(missing_ok=True)
        raise


def read(path: str) -> str:
    """What is at *path*; bytes that nobody here wrote are surrogates, in a link and in a file.

    Raises:
        FileNotFoundError: there is none.
    """
    try:
        return os.readlink(path)  # noqa: PTH115
    except FileNotFoundError:
        raise
    except OSError:  # a file
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
