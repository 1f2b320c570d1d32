"""A server that is to stop takes no new requests, and is asked to stop when its streams have ended.

Triton 24.10 does this for HTTP by itself, but lets go of gRPC streams the moment that it gets
SIGTERM: they hang without an end or an error, and the server with them. So the order is turned
round: `Drain` lays a mark into the server's stream folder, from where preprocessing refuses new
requests with 503, and waits there for the end of the running ones. Standard library only.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from trt_tokenizers.streams.stream_folder import MARK, open_streams

#: Seconds after which a running stream that says nothing is not waited for: many engines do not
#: tell which response is their last, so it may have ended.
SILENT_S = 10.0
#: Seconds without any: a request may be on its way between two models, or its last response
#: between postprocessing and the client.
_QUIET_S = 0.5


class Drain:
    """One server's way from «no new requests» to «no requests».

    Attributes:
        deadline: when it is waited for no longer.
    """

    def __init__(self, folder: Path, now: float, timeout: float) -> None:
        """
        Args:
            folder: of the server's streams.
            now: seconds of one monotonic clock.
            timeout: seconds for running requests.
        """
        self.deadline = now + timeout
        self._folder = folder
        self._quiet_since: float | None = None
        # A server that serves nothing of ours has no such folder, and drains as Triton does it.
        self._serves_streams = folder.is_dir()
        if self._serves_streams:
            with contextlib.suppress(OSError):
                (folder / MARK).touch(mode=0o600)

    def done(self, now: float) -> bool:
        """Whether the server can be asked to stop. To be called a few times a second."""
        if not self._serves_streams or now >= self.deadline:
            return True
        if self._any_request():
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        return self._quiet_since is not None and now - self._quiet_since >= _QUIET_S

    def _any_request(self) -> bool:
        return any(s.waits or s.silent_s <= SILENT_S for s in open_streams(self._folder))
