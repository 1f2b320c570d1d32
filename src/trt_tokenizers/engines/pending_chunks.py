"""The chunks of one sequence that its engine has emitted and the sender has not sent."""

from __future__ import annotations

import threading
from collections import deque

from trt_tokenizers.engines.base import Chunk
from trt_tokenizers.engines.tensors import merge


class PendingChunks:
    """A queue that joins what waits. Any thread may add; one takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: deque[Chunk] = deque()
        self._queued = False
        self._ended = False

    def add(self, chunk: Chunk) -> bool:
        """Add a chunk; return whether the sequence must be put into the sender's queue.

        A chunk after the last one is dropped: an engine may generate it while another thread
        cancels the sequence, and merged with the last one it would hide the end.
        """
        with self._lock:
            if self._ended:
                return False
            self._ended = chunk.last
            self._pending.append(chunk)
            first, self._queued = not self._queued, True
            return first

    def take(self, max_tokens: int) -> tuple[Chunk, bool]:
        """Merge pending chunks up to *max_tokens* into one; also return whether chunks remain."""
        taken: list[Chunk] = []
        with self._lock:
            tokens = 0
            while self._pending:
                tokens += len(self._pending[0].token_ids)
                if taken and 0 < max_tokens < tokens:
                    break
                taken.append(self._pending.popleft())
            self._queued = bool(self._pending)
            return merge(taken), self._queued
