"""Many sequences, one outlet: what an engine emits -> responses, as few as the outlet can take.

An engine emits from its own thread and must not wait. One sender thread hands responses to
Triton. While a response goes out, the tokens of all other streams gather; each next response
then carries every token that its stream has ready. So the first token leaves at once, and a
server that cannot keep up gets fewer, larger responses instead of a longer queue.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Container, Sequence
from typing import Protocol

from trt_tokenizers.engines.base import Chunk, Engine, GenerationRequest, validate
from trt_tokenizers.engines.tensors import OUTPUTS, Array, merge, output_arrays
from trt_tokenizers.errors import EngineError, RequestError, TrtTokenizersError

logger = logging.getLogger(__name__)


class Reply(Protocol):
    """Where the responses of one request go; called from the sender thread only.

    Attributes:
        wanted: names of the outputs that somebody reads.
    """

    wanted: Container[str]

    def send(self, arrays: dict[str, Array], *, final: bool) -> None: ...

    def fail(self, error: TrtTokenizersError) -> None:
        """The last response: an error."""

    def is_cancelled(self) -> bool: ...


class _Request:
    """The sequences (rows) of one client request."""

    def __init__(self, rows: Sequence[GenerationRequest], reply: Reply) -> None:
        self.reply = reply
        self.stream = rows[0].stream
        self.wanted = frozenset(name for name in OUTPUTS if name in reply.wanted)
        if not rows[0].return_log_probs:
            self.wanted -= {"output_log_probs", "cum_log_probs"}
        self.keys = [row.key for row in rows]
        self.open_rows = len(rows)
        self.whole: list[Chunk] = [Chunk()] * len(rows)  # filled unless streaming
        self.failed = False


class _Sequence:
    """One row, with what its engine has emitted and nobody has sent yet."""

    __slots__ = ("_lock", "_pending", "_queued", "request", "row")

    def __init__(self, request: _Request, row: int) -> None:
        self.request = request
        self.row = row
        self._lock = threading.Lock()
        self._pending: list[Chunk] = []
        self._queued = False

    def add(self, chunk: Chunk) -> bool:
        """Whether the sequence has to be put into the sender's queue."""
        with self._lock:
            self._pending.append(chunk)
            first, self._queued = not self._queued, True
            return first

    def take(self, max_tokens: int) -> tuple[Chunk, bool]:
        """What is ready, as one chunk, and whether more stays behind."""
        with self._lock:
            count, tokens = len(self._pending), 0
            if max_tokens:
                for count, chunk in enumerate(self._pending):
                    tokens += len(chunk.token_ids)
                    if tokens > max_tokens and count:
                        break
                else:
                    count = len(self._pending)
            taken, self._pending = self._pending[:count], self._pending[count:]
            self._queued = bool(self._pending)
            return merge(taken), self._queued


class Server:
    """Feeds an engine and sends what it emits."""

    def __init__(self, engine: Engine, max_tokens_per_chunk: int = 0) -> None:
        """
        Args:
            engine: already loaded.
            max_tokens_per_chunk: at the most so many tokens of several emissions in one
                response; 1 sends each emission by itself, 0 sets no limit.
        """
        self._engine = engine
        self._max_tokens = max_tokens_per_chunk
        self._ready: queue.SimpleQueue[_Sequence | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="engine-sender", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[GenerationRequest], reply: Reply) -> None:
        """Start the sequences of one request.

        Raises:
            RequestError, EngineError: nothing was started.
        """
        for row in rows:
            validate(row, self._engine)
        request = _Request(rows, reply)
        for at, row in enumerate(rows):
            sequence = _Sequence(request, at)

            def emit(chunk: Chunk, sequence: _Sequence = sequence) -> None:
                if sequence.add(chunk):
                    self._ready.put(sequence)

            try:
                self._engine.submit(row, emit)
            except (RequestError, EngineError):
                request.failed = True
                for key in request.keys[:at]:
                    self._engine.cancel(key)
                raise

    def stop(self) -> None:
        """End all sequences; their last responses still go out."""
        self._engine.stop()
        self._ready.put(None)
        self._thread.join()

    def _send_all(self) -> None:
        while (sequence := self._ready.get()) is not None:
            chunk, more = sequence.take(self._max_tokens)
            if more:
                self._ready.put(sequence)
            try:
                self._send(sequence, chunk)
            except Exception:  # one response must not end all the others
                logger.exception("a response could not be sent")

    def _send(self, sequence: _Sequence, chunk: Chunk) -> None:
        request = sequence.request
        if request.failed:
            return
        if chunk.error is not None:
            request.failed = True
            self._cancel_others(sequence)
            request.reply.fail(EngineError(chunk.error))
            return
        if chunk.last:
            request.open_rows -= 1
        final = request.open_rows == 0
        keys, wanted = request.keys, request.wanted
        if request.stream:
            at = sequence.row
            if not chunk.last and request.reply.is_cancelled():
                self._engine.cancel(keys[at])
            request.reply.send(output_arrays([chunk], [at], [keys[at]], wanted), final=final)
            return
        request.whole[sequence.row] = chunk
        if final:
            arrays = output_arrays(request.whole, range(len(keys)), keys, wanted)
            request.reply.send(arrays, final=True)

    def _cancel_others(self, failed: _Sequence) -> None:
        for at, key in enumerate(failed.request.keys):
            if at != failed.row:
                self._engine.cancel(key)
