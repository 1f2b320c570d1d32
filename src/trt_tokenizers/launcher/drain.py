"""Drains a server: it refuses new requests, and gets SIGTERM when its running streams have ended.

Triton 24.10 drains HTTP itself, but drops gRPC streams as soon as it gets SIGTERM: they hang
without an end or an error, and so does the server. Therefore we drain first and send SIGTERM
afterwards. `Drain` creates a mark in the server's stream folder, which makes preprocessing refuse
new requests with 503, and watches the folder until the running requests have ended. Standard
library only, because the rank agent imports it with ``python -I -S``.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from trt_tokenizers.streams.stream_folder import MARK, open_streams

#: Seconds without a response after which a running stream is considered ended: many engines do not
#: mark their last response.
SILENT_S = 10.0
#: Seconds that must pass without a stream: a request may be between two models, or its last
#: response between postprocessing and the client.
_QUIET_S = 0.5


class Drain:
    """The drain of one server.

    Attributes:
        deadline: time at which the drain ends even if requests are running.
    """

    def __init__(self, folder: Path, now: float, timeout: float) -> None:
        """Make the server refuse new requests.

        Args:
            folder: the server's stream folder.
            now: seconds of one monotonic clock.
            timeout: seconds for running requests.
        """
        self.deadline = now + timeout
        self._folder = folder
        self._quiet_since: float | None = None
        # A server without our models has no such folder; Triton drains it alone.
        self._serves_streams = folder.is_dir()
        if self._serves_streams:
            with contextlib.suppress(OSError):
                (folder / MARK).touch(mode=0o600)

    def done(self, now: float) -> bool:
        """Whether the server can get SIGTERM. Call this several times a second."""
        if not self._serves_streams or now >= self.deadline:
            return True
        streams = open_streams(self._folder)
        if any(stream.waits or stream.silent_s <= SILENT_S for stream in streams):
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        return self._quiet_since is not None and now - self._quiet_since >= _QUIET_S
