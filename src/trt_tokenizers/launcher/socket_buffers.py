"""Enlarges socket buffers of Triton, so that HTTP streams lose no responses on a busy machine.

tritonserver wakes each HTTP thread through a socket pair, with one command per streamed response.
With Linux's default buffer the pair holds 278 commands. Triton 24.10 silently drops those that do
not fit, so a stream loses responses or never ends. gRPC is not affected. The buffers belong to the
kernel, so another process can enlarge them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
from pathlib import Path

#: Bytes; room for some 20,000 commands, which take 768 bytes each.
_WANTED = 16 << 20
#: Bytes below which the user gets a warning.
_ENOUGH = 4 << 20
_SYS_PIDFD_GETFD = 438  # the same on every architecture
_SO_SNDBUFFORCE = 32


def widen(server_pid: int) -> str | None:
    """Enlarge the buffers of all socket pairs of the process *server_pid*, which has our user.

    Returns:
        What the user should do if that was not possible, or None.
    """
    smallest = None
    with contextlib.suppress(OSError, AttributeError):  # an old kernel, Python or a sandbox
        smallest = min(map(_widen, _pairs(server_pid)), default=0)
    if smallest is not None and smallest >= _ENOUGH:
        return None
    return (
        "HTTP streams may lose responses when this machine is very busy (gRPC streams do not); "
        "run `sysctl -w net.core.wmem_default=16777216` on the host before the start, or give "
        "the launcher CAP_NET_ADMIN and CAP_SYS_PTRACE"
    )


def _pairs(pid: int) -> list[socket.socket]:
    """The connected, nameless UNIX sockets of a process, as duplicates."""
    get = ctypes.CDLL(None, use_errno=True).syscall
    found = []
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if not str(entry.readlink()).startswith("socket:"):
                    continue
            except FileNotFoundError:  # it has been closed
                continue
            copy = get(_SYS_PIDFD_GETFD, process, int(entry.name), 0)
            if copy < 0:
                if ctypes.get_errno() == errno.EBADF:
                    continue
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            one = socket.socket(fileno=copy)
            if one.family == socket.AF_UNIX and one.type == socket.SOCK_STREAM:
                found.append(one)
            else:
                one.close()
    finally:
        os.close(process)
    return found


def _widen(one: socket.socket) -> int:
    """Enlarge the send buffer; return its new size in bytes."""
    with one:
        try:
            one.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _WANTED)
        except PermissionError:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WANTED)
        return one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
