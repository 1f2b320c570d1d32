"""A stream's context on its way from preprocessing to postprocessing.

Triton passes nothing from the one to the other beside the engine's own tensors, so what
postprocessing has to know of a stream lies on tmpfs, written once, read once, removed: in a slot
of shared memory that its key names (`slots`), or by name (`smalltexts`) if it is too long for one,
under a client's request id, or a further row of a request. The folder is private to the server: it
is named after the tritonserver process, which is the parent of every Python model.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import stat
import struct
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from trt_tokenizers.errors import SettingsError
from trt_tokenizers.streams import slots, smalltexts
from trt_tokenizers.streams.slots import PLACED, Slots
from trt_tokenizers.streams.smalltexts import SmallTexts
from trt_tokenizers.streams.stream_folder import MARK, stream_folder

#: How often the folder is looked at for the mark of a server that is to stop. Seconds.
LOOK_S = 0.05
_MANY = 4096  # calls of sweep() between two looks, at the most

logger = logging.getLogger(__name__)


class RequestContext(NamedTuple):
    """What postprocessing has to know of one sequence.

    Attributes:
        num_input_tokens: ids of the prompt.
        end_ids: ids that end the answer and are no part of its text.
        stop_strings: texts that end the answer.
        include_stop: whether the stop string that ended it stays in the text.
        skip_special_tokens: whether special tokens are left out of the text.
        echo: the prompt's text, to stand before the answer; empty if not asked for.
        continues: whether the answer goes on in the text of the prompt; otherwise it begins a text
            of its own, where SentencePiece-like tokenizers drop a space.
        stream: whether the client asked for a stream; otherwise the first response is the last.
        max_tokens: tokens of the answer, the end id included, at the most; 0: not known.
        min_tokens: nothing but max_tokens ends the answer before.
        arrived: when preprocessing got the request, seconds of `time.monotonic`; 0: not known.
        stop_ids: token ids of the stop words, in every tokenization the engine was given.
    """

    num_input_tokens: int
    end_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    echo: str = ""
    continues: bool = False
    stream: bool = True
    max_tokens: int = 0
    min_tokens: int = 1
    arrived: float = 0.0
    stop_ids: tuple[tuple[int, ...], ...] = ()

    def to_record(self) -> bytes:
        flags = (
            self.include_stop
            | self.skip_special_tokens << 1
            | self.continues << 2
            | self.stream << 3
        )
        numbers = _NUMBERS.pack(
            self.num_input_tokens, self.max_tokens, self.min_tokens, self.arrived, flags
        )
        if self.stop_strings or self.echo:  # the client's own words: another request has others
            return numbers + _dumps(self.end_ids, self.stop_ids, self.stop_strings, self.echo)
        return numbers + _dumps_again(self.end_ids, self.stop_ids)

    @classmethod
    def from_record(cls, record: bytes) -> RequestContext:
        """The inverse of `to_record`.

        Raises:
            ValueError, TypeError, struct.error: *record* is none.
        """
        num_input_tokens, max_tokens, min_tokens, arrived, flags = _NUMBERS.unpack_from(record)
        texts = record[_NUMBERS.size :]
        loads = _loads_again if len(texts) <= slots.ROOM else _loads
        end_ids, stop_ids, stop_strings, echo = loads(texts)
        return cls(
            num_input_tokens=num_input_tokens,
            end_ids=end_ids,
            stop_strings=stop_strings,
            include_stop=bool(flags & 1),
            skip_special_tokens=bool(flags & 2),
            echo=echo,
            continues=bool(flags & 4),
            stream=bool(flags & 8),
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            arrived=arrived,
            stop_ids=stop_ids,
        )


_NUMBERS = struct.Struct("<qqqdB")


def _dumps(
    end_ids: tuple[int, ...],
    stop_ids: tuple[tuple[int, ...], ...],
    stop_strings: tuple[str, ...] = (),
    echo: str = "",
) -> bytes:
    return json.dumps((end_ids, stop_ids, stop_strings, echo)).encode()


def _loads(texts: bytes) -> Any:
    return _tuples(json.loads(texts))


# Most requests of a server differ in numbers only.
_dumps_again = lru_cache(64)(_dumps)
_loads_again = lru_cache(64)(_loads)


def _tuples(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class ContextStore:
    """Contexts by key, shared by the Python models of one server."""

    def __init__(self, directory: Path | None = None, max_age_s: float = 3600.0) -> None:
        """
        Args:
            directory: where; by default a folder on tmpfs named after the parent process.
            max_age_s: a context that nobody took for so long is removed by `sweep`.

        Raises:
            SettingsError: the folder is not ours alone.
        """
        self._directory = directory or stream_folder(os.getppid())
        self._slots = Slots(self._directory)
        self._texts = SmallTexts(self._directory)
        self._mark_of_drain = f"{self._directory}/{MARK}"
        self._draining = False
        self._next_look = 0.0
        self._max_age_s = max_age_s
        self._next_sweep = time.monotonic() + max_age_s / 4
        self._calls = 0
        # Several models share the folder; the last one to leave removes it.
        self._mark = self._directory / f"user-{os.getpid()}-{id(self)}"
        self._make()

    def _make(self) -> None:
        """The folder, private: whoever can write here speaks for the clients."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._directory.lstat()
        if (
            not stat.S_ISDIR(found.st_mode)
            or found.st_uid != os.geteuid()
            or stat.S_IMODE(found.st_mode) & 0o077
        ):
            raise SettingsError(
                f"{self._directory} belongs to somebody else or is open to others; remove it"
            )
        self._mark.touch(mode=0o600)

    @property
    def directory(self) -> Path:
        return self._directory

    def __len__(self) -> int:
        """Contexts that wait to be taken."""
        every = (*slots.found(self._directory), *smalltexts.found(self._directory))
        return sum(waits for waits, _ in every)

    def put(self, *contexts: RequestContext) -> int:
        """Store the contexts of a request's rows, under a new key that no other request has."""
        record = contexts[0].to_record()
        try:
            key = self._slots.put(record)
        except FileNotFoundError:  # somebody emptied /dev/shm
            self._make()
            key = self._slots.put(record)
        while key is None:
            free = secrets.randbelow(PLACED)
            if self._put_named(free, 0, record):
                key = free
        try:
            for row, context in enumerate(contexts[1:], 1):
                self._put_named(key, row, context.to_record())
        except OSError:  # tmpfs is full
            for row in range(len(contexts)):
                self.discard(key, row)
            raise
        return key

    def put_each(self, contexts: Sequence[RequestContext]) -> list[int]:
        """Store every context under a key of its own."""
        keys: list[int] = []
        try:
            for context in contexts:
                keys.append(self.put(context))
        except OSError:  # tmpfs is full
            for key in keys:
                self.discard(key)
            raise
        return keys

    def put_under(self, key: int, contexts: Sequence[RequestContext]) -> None:
        """Store the contexts of a request's rows under a key that came from elsewhere."""
        for row, context in enumerate(contexts):
            while not self._put_named(key, row, context.to_record()):
                self._texts.discard(key, row)  # a client used its id again

    def _put_named(self, key: int, row: int, record: bytes) -> bool:
        """False if there is one already."""
        text = record.hex()
        try:
            return self._texts.put(key, row, text)
        except FileNotFoundError:  # somebody emptied /dev/shm
            self._make()
            return self._texts.put(key, row, text)

    def has(self, key: int, row: int = 0) -> bool:
        """Whether a context waits."""
        return self._slots.has(key) if _in_slot(key, row) else self._texts.has(key, row)

    def take(self, key: int, row: int = 0) -> RequestContext | None:
        """The context of a row of *key*, once; None if there is none, or none that can be read.

        From now on its stream runs, until `release`: whoever stops the server waits for that.
        """
        kept = self._slots.take(key) if _in_slot(key, row) else self._texts.take(key, row)
        if kept is None:
            return None
        try:
            record = bytes.fromhex(kept) if isinstance(kept, str) else kept
            return RequestContext.from_record(record)
        except (ValueError, TypeError, struct.error):
            logger.error("the context of stream %d cannot be read: %r", key, kept[:80])
            return None

    def discard(self, key: int, row: int = 0) -> None:
        """Remove the context of a stream that will not reach postprocessing."""
        if _in_slot(key, row):
            self._slots.discard(key)
        else:
            self._texts.discard(key, row)

    def touch(self, key: int, row: int = 0) -> None:
        """The stream goes on. To be called every few seconds, not per token."""
        if _in_slot(key, row):
            self._slots.touch(key)
        else:
            self._texts.touch(key, row)

    def release(self, key: int, row: int = 0) -> None:
        """The stream whose context was taken has ended."""
        if _in_slot(key, row):
            self._slots.release(key)
        else:
            self._texts.release(key, row)

    def draining(self, now: float) -> bool:
        """Whether the server is about to stop and takes no new requests, as of `LOOK_S` ago at the
        earliest.

        Args:
            now: seconds of `time.monotonic`.
        """
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            self._draining = os.path.exists(self._mark_of_drain)  # noqa: PTH110
            self._slots.look()
        return self._draining

    def sweep(self, now: float) -> None:
        """Remove what is older than ``max_age_s``, and the oldest where there are too many; looks
        only now and then, so call it freely.

        Args:
            now: seconds of `time.monotonic`.
        """
        self._calls += 1
        if now < self._next_sweep and self._calls % _MANY:
            return
        self._next_sweep = now + self._max_age_s / 4
        self._slots.sweep(self._max_age_s)
        self._texts.sweep(self._max_age_s)

    def close(self) -> None:
        """Leave; the last of a server's models removes the folder."""
        self._slots.close()
        self._mark.unlink(missing_ok=True)
        users = [int(mark.name.split("-")[1]) for mark in self._directory.glob("user-*")]
        if not any(Path(f"/proc/{pid}").exists() for pid in users):
            shutil.rmtree(self._directory, ignore_errors=True)


def _in_slot(key: int, row: int) -> bool:
    return key >= PLACED and not row
