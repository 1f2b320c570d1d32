"""Many sequences, one outlet: what an engine emits -> responses, as few as the outlet can take.

An engine emits from its own thread and must not wait. One sender thread hands responses to
Triton. While a response goes out, the tokens of all other streams gather; each next response
then carries every token that its stream has ready. So the first token leaves at once, and a
server that cannot keep up gets fewer, larger responses instead of a longer queue.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Container, Sequence
from typing import Protocol

from trt_tokenizers.engines.base import Chunk, Engine, GenerationRequest, validate
from trt_tokenizers.engines.tensors import OUTPUTS, PERF, Array, merge, output_arrays
from trt_tokenizers.errors import EngineError, RequestError, SettingsError, TrtTokenizersError
from trt_tokenizers.settings import parse, setting
from trt_tokenizers.streams.stream_key import ASK_S

logger = logging.getLogger(__name__)

# How often requests that send nothing are looked after: those that do not stream. Seconds.
_LOOK_S = 1.0


@dataclasses.dataclass(frozen=True)
class ServingSettings:
    """Parameters of the engine's model that are not the engine's own."""

    engine: str = setting(dataclasses.MISSING, "an engine's name, or module:Class")
    max_tokens_per_chunk: int = setting(
        0,
        "tokens of one response at the most, of those that gathered; 0: no limit, 1: no gathering",
    )
    gpu_device_ids: str = setting(
        "",
        "GPUs of each instance of the model: 0,1;2,3 gives two of them two each; empty: all GPUs "
        "for the one",
    )

    @classmethod
    def take(cls, parameters: dict[str, str], where: str) -> ServingSettings:
        """Parse those of *parameters* that are its own, and remove them.

        Raises:
            SettingsError: a value cannot be used.
        """
        own = {field.name: parameters.pop(field.name, "") for field in dataclasses.fields(cls)}
        return parse(cls, own, where)

    def choose_gpus(self, instance: str, where: str) -> None:
        """Let this process, that of an instance, see its GPUs only.

        Args:
            instance: Triton's name of it: the model's with the instance's number at its end.

        Raises:
            SettingsError: there are more instances than lists of GPUs.
        """
        if not self.gpu_device_ids:
            return
        lists = self.gpu_device_ids.split(";")
        number = int(instance.rpartition("_")[2])
        if number >= len(lists):
            raise SettingsError(
                f"{where}: gpu_device_ids is {self.gpu_device_ids!r}, which has nothing for "
                f"instance {number + 1}; write one list for each, separated by ;"
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = lists[number].strip()


class Reply(Protocol):
    """Where the responses of one request go. Called from one thread at a time.

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
        if not rows[0].return_perf_metrics:
            self.wanted -= PERF.keys()
        self.rows = rows
        self.keys = [row.key for row in rows]
        self.open_rows = len(rows)
        self.whole: list[Chunk] = [Chunk()] * len(rows)  # filled unless streaming
        self.asked_at = time.monotonic()  # when Triton was last asked whether it is cancelled
        # Nothing is sent once this is set; who sets or sends holds the lock.
        self.over = False
        self.lock = threading.Lock()

    def cancelled(self) -> bool:
        """Whether the client is gone; asks Triton, which takes long, only now and then."""
        now = time.monotonic()
        if now - self.asked_at < ASK_S:
            return False
        self.asked_at = now
        return self.reply.is_cancelled()


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


class ResponseDispatcher:
    """Feeds an engine and sends what it emits."""

    def __init__(
        self,
        engine: Engine,
        max_tokens_per_chunk: int = 0,
        on_death: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """
        Args:
            engine: already loaded.
            max_tokens_per_chunk: at the most so many tokens of several emissions in one
                response; 1 sends each emission by itself, 0 sets no limit.
            on_death: called once, when the engine has died and its requests have their errors.
        """
        self._engine = engine
        self._max_tokens = max_tokens_per_chunk
        self._on_death = on_death
        self._dead = False
        self._lock = threading.Lock()
        self._live: dict[int, _Request] = {}  # by stream key
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
        if any(row.sequence for row in rows) and "sequence_index" not in request.wanted:
            raise RequestError(
                "num_return_sequences is above 1, but the ensemble gives no sequence_index, which "
                "tells them apart; send 1, or generate the server with it among --outputs"
            )
        with self._lock:
            if len(set(request.keys)) < len(rows) or not self._live.keys().isdisjoint(request.keys):
                raise RequestError("stream_key names a stream that is running; leave it out")
            self._live.update(dict.fromkeys(request.keys, request))
        try:
            for at, row in enumerate(rows):
                self._engine.submit(row, functools.partial(self._emit, _Sequence(request, at)))
        except Exception:
            with request.lock:
                told, request.over = request.over, True
            self._forget(request)
            self._report_engine_death()
            if not told:  # an engine that dies fails the rows that it has by itself
                raise

    @property
    def running(self) -> int:
        """Sequences whose request has not ended."""
        return len(self._live)

    def cancel(self, key: int) -> None:
        """Somebody downstream needs no more of this stream."""
        self._engine.cancel(key)

    def stop(self) -> None:
        """End all sequences; their last responses still go out."""
        self._engine.stop()
        self._ready.put(None)
        self._thread.join()

    def _emit(self, sequence: _Sequence, chunk: Chunk) -> None:
        if sequence.add(chunk):
            self._ready.put(sequence)

    def _send_all(self) -> None:
        next_look = time.monotonic() + _LOOK_S
        stopping = False
        while True:
            try:
                if time.monotonic() > next_look:
                    next_look = time.monotonic() + _LOOK_S
                    self._look_for_cancels()
                    self._report_engine_death()  # an engine may die while it has nothing to do
                sequence = self._ready.get(timeout=0 if stopping else _LOOK_S)
                if sequence is None:
                    stopping = True
                else:
                    self._send_next(sequence)
            except queue.Empty:
                if stopping:
                    return
            except Exception:  # of one request; the others go on
                logger.exception("the sender of responses stumbled")

    def _send_next(self, sequence: _Sequence) -> None:
        chunk, more = sequence.take(self._max_tokens)
        if more:
            self._ready.put(sequence)
        request = sequence.request
        with request.lock:
            if not request.over:
                try:
                    self._send(request, sequence.row, chunk)
                except Exception as error:
                    logger.exception("a response could not be sent")
                    request.over = True
                    request.reply.fail(EngineError(f"a response could not be sent: {error}"))
        if request.over:
            self._forget(request)
        if chunk.error is not None:
            self._report_engine_death()

    def _send(self, request: _Request, row: int, chunk: Chunk) -> None:
        if chunk.error is not None:
            request.over = True
            kind = RequestError if chunk.refused else EngineError
            request.reply.fail(kind(chunk.error))
            return
        if chunk.last:
            request.open_rows -= 1
        request.over = request.open_rows == 0
        if request.stream:
            arrays = output_arrays([chunk], [request.rows[row]], request.wanted)
            request.reply.send(arrays, final=request.over)
            if not request.over and request.cancelled():
                self._cancel(request)
            return
        request.whole[row] = merge([request.whole[row], chunk])
        if request.over:
            arrays = output_arrays(request.whole, request.rows, request.wanted)
            request.reply.send(arrays, final=True)

    def _look_for_cancels(self) -> None:
        """Of requests that say nothing for a while, such as those that do not stream."""
        with self._lock:
            requests = set(self._live.values())
        for request in requests:
            with request.lock:
                if not request.over and request.cancelled():
                    self._cancel(request)

    def _cancel(self, request: _Request) -> None:
        for key in request.keys:
            self._engine.cancel(key)

    def _forget(self, request: _Request) -> None:
        """The request is over; what its engine still does for it is in vain."""
        with self._lock:
            for key in request.keys:
                self._live.pop(key, None)
        if request.open_rows:
            self._cancel(request)

    def _report_engine_death(self) -> None:
        if self._engine.died is not None and not self._dead:
            self._dead = True
            # The engine's other requests get their errors meanwhile.
            threading.Timer(1.0, self._on_death, [self._engine.died]).start()
