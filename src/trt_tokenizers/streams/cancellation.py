"""From postprocessing to the engine: cancel these streams.

Postprocessing finds stop strings after the engine has run, and Triton offers no way back. So the
two Python models use a datagram socket in the server's stream folder. Sending never blocks. If no
engine listens, the stream runs to its own end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

_PREFIX = "engine-"
_KEY = struct.Struct("<Q")


class CancelReceiver:
    """The engine's end of the socket."""

    def __init__(self, directory: Path, cancel: Callable[[int], None]) -> None:
        """Listen in *directory*; call *cancel* with each key, on a thread of the receiver."""
        # While Triton reloads a model, two engines listen.
        self._path = directory / f"{_PREFIX}{os.getpid()}-{id(self)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._cancel = cancel
        self._closed = False
        self._thread = threading.Thread(target=self._listen, name="cancel-receiver", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._closed = True
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=1.0)
        self._socket.close()

    def _listen(self) -> None:
        while not self._closed:
            try:
                data = self._socket.recv(_KEY.size + 1)
                if len(data) == _KEY.size:
                    self._cancel(*_KEY.unpack(data))
            except Exception:  # a bad message must not stop later ones
                logger.exception("a stream could not be cancelled; it runs to its own end")


class CancelSender:
    """Postprocessing's end of the socket."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, key: int) -> None:
        """Ask the engines to cancel a stream; an engine ignores keys that it does not know.

        A message is lost if the engine's queue is full: send again while its tokens arrive.
        """
        for path in self._directory.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                self._socket.sendto(_KEY.pack(key), str(path))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
