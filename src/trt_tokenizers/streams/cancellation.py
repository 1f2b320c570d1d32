"""From postprocessing to the engine: these streams need no more tokens.

A stop string is found after the engine, and Triton tells a running ensemble step nothing, so the
two Python models talk by themselves: one datagram socket in the server's stream folder. Sending
never waits; where nobody listens, the engine just goes on to its own end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

#: Inputs of the request that stops another one of the same id, for TensorRT-LLM's C++ backend.
STOP_REQUEST: dict[str, npt.NDArray[Any]] = {
    "input_ids": np.zeros((1, 1), dtype=np.int32),
    "input_lengths": np.ones((1, 1), dtype=np.int32),
    "request_output_len": np.ones((1, 1), dtype=np.int32),
    "stop": np.ones((1, 1), dtype=np.bool_),
}

_PREFIX = "engine-"
_BATCH = 512  # keys in one datagram


class CancelReceiver:
    """The engine's end: calls *stop* with each key, from a thread of its own."""

    def __init__(self, directory: Path, stop: Callable[[int], None]) -> None:
        # A name of its own: while a model is reloaded, two engines listen.
        self._path = directory / f"{_PREFIX}{os.getpid()}-{id(self)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._stop = stop
        self._closed = False
        self._thread = threading.Thread(target=self._listen, name="stop-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed = True
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=1.0)
        self._socket.close()

    def _listen(self) -> None:
        while not self._closed:
            try:
                data = self._socket.recv(8 * _BATCH)
                for (key,) in struct.iter_unpack("<Q", data[: len(data) // 8 * 8]):
                    self._stop(key)
            except Exception:  # one message must not end all the others
                logger.exception("a stop could not be handed to the engine")


class CancelSender:
    """Postprocessing's end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, keys: Iterable[int]) -> None:
        """Stop *keys*; an engine passes over what it does not know (any more).

        A message may be lost where the engine's queue is full; send it again while tokens come.
        """
        every = list(keys)
        for at in range(0, len(every), _BATCH):
            some = every[at : at + _BATCH]
            data = struct.pack(f"<{len(some)}Q", *some)
            for path in self._directory.glob(f"{_PREFIX}*"):
                with contextlib.suppress(OSError):
                    self._socket.sendto(data, str(path))

    def close(self) -> None:
        self._socket.close()
