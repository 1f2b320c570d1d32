"""Reports the state of a launch to systemd, and to containers' probes in a file."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from pathlib import Path


def notify_systemd(*states: str) -> None:
    """Send ``READY=1`` and the like to the service manager, if one started this process
    (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # A leading @ means the abstract namespace.
    name = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto("\n".join(states).encode(), name)


def write_ready_file(path: Path, content: dict[str, object]) -> None:
    """Write *content* as JSON into *path* atomically, readable for all.

    The scratch file has a random name and is created exclusively, so it follows no link.

    Raises:
        OSError: the file cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with scratch.open("x") as file:  # never follows a link of another user
        file.write(json.dumps(content) + "\n")
    scratch.replace(path)
