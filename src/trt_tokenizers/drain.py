"""A server that is to stop takes no new requests, and is asked to stop when its streams have ended.

Triton 24.10 does this for HTTP by itself, but lets go of gRPC streams the moment that it gets
SIGTERM: they hang without an end or an error, and the server with them. So the order is turned
round: `Drain` lays a mark into the server's stream folder, from where preprocessing refuses new
requests with 503, and waits there for the end of the running ones. Standard library only.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

#: The mark.
MARK = "draining"
#: File names in the stream folder: a context that waits, and one whose stream runs.
WAITING = "*.[0-9]*"
RUNNING = "open-*"
#: Seconds without any: a request may be on its way between two models, or its last response
#: between postprocessing and the client.
_QUIET_S = 0.5


class Drain:
    """One server's way from «no new requests» to «no requests».

    Attributes:
        deadline: when it is waited for no longer.
    """

    def __init__(self, server_pid: int, now: float, timeout: float, root: Path) -> None:
        """
        Args:
            server_pid: the tritonserver.
            now: seconds of one monotonic clock.
            timeout: seconds for running requests.
            root: where the folders of streams are.
        """
        self.deadline = now + timeout
        self._quiet_since: float | None = None
        # A server that serves nothing of ours has no such folder, and drains as Triton does it.
        self._folders = list(root.glob(f"trt-tokenizers-{server_pid}-*"))
        for folder in self._folders:
            with contextlib.suppress(OSError):
                (folder / MARK).touch(mode=0o600)

    def done(self, now: float) -> bool:
        """Whether the server can be asked to stop. To be called a few times a second."""
        if not self._folders or now >= self.deadline:
            return True
        if any(self._requests()):
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        return self._quiet_since is not None and now - self._quiet_since >= _QUIET_S

    def _requests(self) -> list[Path]:
        return [
            path
            for folder in self._folders
            for pattern in (WAITING, RUNNING)
            for path in folder.glob(pattern)
        ]
