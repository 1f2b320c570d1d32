"""Feeds an engine with requests and sends its chunks as responses, without Triton's API.

An engine emits chunks from its own thread and must not wait. One sender thread passes responses to
Triton. While it sends a response, the tokens of all other streams accumulate, and the next response
of a stream carries all of its new tokens. So the first token is sent at once, and a slow server
gets fewer, larger responses instead of a longer queue.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from trt_tokenizers.engines.base import Chunk, Engine, GenerationRequest, validate
from trt_tokenizers.engines.pending_chunks import PendingChunks
from trt_tokenizers.engines.serving_settings import ServingSettings
from trt_tokenizers.engines.tensors import PERF, Array, merge, output_arrays
from trt_tokenizers.errors import EngineError, RequestError, TrtTokenizersError, UnavailableError
from trt_tokenizers.streams.response_window import ResponseWindow
from trt_tokenizers.streams.stream_key import ASK_S

logger = logging.getLogger(__name__)

#: Seconds between checks for cancelled requests and for the death of the engine.
_POLL_S = 1.0


class ResponseSender(Protocol):
    """Sends the responses of one request. Called from one thread at a time.

    Attributes:
        wanted: names of the outputs that the client requested.
    """

    wanted: Collection[str]

    @property
    def postprocessed(self) -> bool:
        """Whether the responses go to postprocessing."""

    def send(self, arrays: dict[str, Array], *, final: bool) -> None:
        """Send a response."""

    def fail(self, error: TrtTokenizersError) -> None:
        """Send *error* as the last response."""

    def is_cancelled(self) -> bool:
        """Whether the client has cancelled the request or disconnected."""


class _Request:
    """One client request: its sequences (rows) and what is left to send."""

    def __init__(self, rows: Sequence[GenerationRequest], sender: ResponseSender) -> None:
        self.sender = sender
        self.stream = rows[0].stream
        self.wanted = set(sender.wanted)
        if not rows[0].return_log_probs:
            self.wanted -= {"output_log_probs", "cum_log_probs"}
        if not rows[0].return_perf_metrics:
            self.wanted -= PERF.keys()
        # As TensorRT-LLM: an index is sent only if there are several, since each tensor costs time.
        if rows[-1].row == 0:
            self.wanted -= {"batch_index"}
        if rows[0].sequence is None:
            self.wanted -= {"sequence_index"}
        self.rows = rows
        self.keys = [row.key for row in rows]
        self.open_rows = set(range(len(rows)))
        self.answers: list[Chunk] = [Chunk()] * len(rows)  # collected chunks, unless streaming
        self.cancel_checked_at = time.monotonic()
        self.silent = False  # whether nothing has been sent since the last poll
        # Nothing is sent once `ended` is set. Hold the lock to set it or to send.
        self.ended = False
        self.lock = threading.Lock()

    def cancelled(self) -> bool:
        """Whether the client is gone. Triton's answer is slow, so it is asked every ASK_S only."""
        now = time.monotonic()
        if now - self.cancel_checked_at < ASK_S:
            return False
        self.cancel_checked_at = now
        return self.sender.is_cancelled()


class _Sequence(PendingChunks):
    """One row and its chunks that are not sent yet."""

    def __init__(self, request: _Request, row: int) -> None:
        super().__init__()
        self.request = request
        self.row = row


class ResponseDispatcher:
    """Submits requests to an engine and sends its chunks as responses."""

    def __init__(
        self,
        engine: Engine,
        settings: ServingSettings,
        on_death: Callable[[str], None] = lambda reason: None,
        *,
        decoupled: bool = True,
        window: ResponseWindow | None = None,
        keep_alive: Callable[[int], None] = lambda key: None,
    ) -> None:
        """Start the sender thread.

        Args:
            engine: already loaded.
            on_death: called once after the engine has died, when its requests have their errors.
            decoupled: whether a request may have several responses.
            window: limits the responses that wait for postprocessing.
            keep_alive: called every few seconds with the key of each sequence that runs or waits
                without sending responses.
        """
        self._window = window
        self._decoupled = decoupled
        waiting = settings.max_queue_size
        self._max_sequences = waiting and engine.max_batch_size + waiting  # 0: no limit
        self._engine = engine
        self._max_tokens = settings.max_tokens_per_chunk
        self._on_death = on_death
        self._keep_alive = keep_alive
        self._death_reported = False
        self._lock = threading.Lock()
        self._requests: dict[int, _Request] = {}  # running ones, by stream key
        self._ready: queue.SimpleQueue[_Sequence | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="engine-sender", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[GenerationRequest], sender: ResponseSender) -> None:
        """Start the sequences of one request.

        Raises:
            RequestError, EngineError, UnavailableError: the request was not started.
        """
        if rows[0].stream and not self._decoupled:
            raise RequestError(
                "stream is true, but this server answers each request with one response "
                "(decoupled_mode is false); leave it out"
            )
        for row in rows:
            validate(row, self._engine)
        request = _Request(rows, sender)
        if any(row.sequence for row in rows) and "sequence_index" not in request.wanted:
            raise RequestError(
                "num_return_sequences is above 1, but the ensemble has no output sequence_index to "
                "tell the sequences apart; send 1, or generate the server with sequence_index in "
                "--outputs"
            )
        with self._lock:
            keys = set(request.keys)
            if len(keys) < len(rows) or keys & self._requests.keys():
                raise RequestError("stream_key belongs to a running stream; leave it out")
            if 0 < self._max_sequences < len(self._requests) + len(rows):
                raise UnavailableError(
                    f"the server has {len(self._requests)} sequences and takes at most "
                    f"{self._max_sequences}, by max_queue_size; try again later"
                )
            self._requests.update(dict.fromkeys(request.keys, request))
        try:
            for at, row in enumerate(rows):
                self._engine.submit(row, functools.partial(self._emit, _Sequence(request, at)))
        except Exception:
            with request.lock:
                already_failed, request.ended = request.ended, True
            self._remove(request)
            self._report_engine_death()
            if not already_failed:  # a dying engine sends errors to the rows that it has
                raise

    @property
    def running(self) -> int:
        """Sequences whose request has not ended."""
        return len(self._requests)

    def cancel(self, key: int) -> None:
        """Stop generating for the stream *key*."""
        self._engine.cancel(key)

    def stop(self) -> None:
        """End all sequences and send their last responses."""
        self._engine.stop()
        self._ready.put(None)
        self._thread.join()

    def _emit(self, sequence: _Sequence, chunk: Chunk) -> None:
        if sequence.add(chunk):
            self._ready.put(sequence)

    def _send_all(self) -> None:
        """The sender thread."""
        next_poll = time.monotonic() + _POLL_S
        stopping = False
        while True:
            try:
                if time.monotonic() > next_poll:
                    next_poll = time.monotonic() + _POLL_S
                    self._cancel_abandoned()
                    self._report_engine_death()  # an idle engine may die too
                sequence = self._ready.get(timeout=0 if stopping else _POLL_S)
                if sequence is None:
                    stopping = True
                else:
                    self._send_next(sequence)
            except queue.Empty:
                if stopping:
                    return
            except Exception:  # concerns one request; the others continue
                logger.exception("unexpected error in the sender thread")

    def _send_next(self, sequence: _Sequence) -> None:
        if self._window is not None and sequence.request.sender.postprocessed:
            self._window.enter()
        chunk, more = sequence.take(self._max_tokens)
        if more:
            self._ready.put(sequence)
        request = sequence.request
        with request.lock:
            self._try_to_send(request, sequence.row, chunk)
        if request.ended:
            self._remove(request)
        if chunk.error is not None:
            self._report_engine_death()

    def _try_to_send(self, request: _Request, row: int, chunk: Chunk) -> None:
        if not request.ended:
            try:
                self._send(request, row, chunk)
            except Exception as error:
                logger.exception("a response could not be sent")
                request.ended = True
                request.sender.fail(EngineError(f"a response could not be sent: {error}"))

    def _send(self, request: _Request, row: int, chunk: Chunk) -> None:
        if chunk.error is not None:
            request.ended = True
            kind = RequestError if chunk.refused else EngineError
            request.sender.fail(kind(chunk.error))
            return
        if chunk.last:
            request.open_rows.discard(row)
        request.ended = not request.open_rows
        request.silent = False
        if request.stream:
            arrays = output_arrays([chunk], [request.rows[row]], request.wanted)
            request.sender.send(arrays, final=request.ended)
            if not request.ended and request.cancelled():
                self._cancel(request)
            return
        request.answers[row] = merge([request.answers[row], chunk])
        if request.ended:
            arrays = output_arrays(request.answers, request.rows, request.wanted)
            request.sender.send(arrays, final=True)

    def _cancel_abandoned(self) -> None:
        """Cancel requests whose client is gone, also those that send no responses meanwhile.

        Triton does not tell a running step of an ensemble that the client is gone; it tells the
        next step. So a silent stream sends empty chunks, and postprocessing cancels it. A whole
        answer has one response only.
        """
        with self._lock:
            requests = set(self._requests.values())
        for request in requests:
            with request.lock:
                if not request.ended and request.cancelled():
                    self._cancel(request)
                elif not request.ended and request.silent:
                    for row in sorted(request.open_rows):
                        if request.stream:
                            self._try_to_send(request, row, Chunk())
                        else:
                            self._keep_alive(request.keys[row])
                request.silent = True
            if request.ended:
                self._remove(request)

    def _cancel(self, request: _Request) -> None:
        for key in request.keys:
            self._engine.cancel(key)

    def _remove(self, request: _Request) -> None:
        """Remove a request that has ended, and cancel its rows that still run."""
        with self._lock:
            for key in request.keys:
                self._requests.pop(key, None)
        if request.open_rows:
            self._cancel(request)

    def _report_engine_death(self) -> None:
        if self._engine.died is not None and not self._death_reported:
            self._death_reported = True
            # Delayed, so that the engine's other requests get their errors first.
            threading.Timer(1.0, self._on_death, [self._engine.died]).start()
