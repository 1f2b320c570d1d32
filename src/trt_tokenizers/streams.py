"""What belongs to one stream: its key, its end, its context from pre- to postprocessing.

Triton passes nothing from preprocessing to postprocessing beside the engine's own tensors, so
what postprocessing has to know of a stream lies on tmpfs, named by the stream's key:
written once, read once, removed. The folder is private to the server: it is named after the
tritonserver process, which is the parent of every Python model.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import logging
import os
import shutil
import stat
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from trt_tokenizers import smalltexts
from trt_tokenizers.drain import MARK, RUNNING, WAITING, stream_folder
from trt_tokenizers.errors import RequestError, SettingsError

#: Keys are below 2**53: a JSON number holds no more without rounding.
KEY_BITS = 53
_KEY_MASK = (1 << KEY_BITS) - 1
_REASONS = 4  # finish reasons; the sequence's number stands above them
#: Sequences of one key, at the most: all of it fits into an int64.
MAX_SEQUENCES = 255
#: How often Triton is asked whether a client is gone, which takes 60 µs. Seconds.
ASK_S = 0.1
_MANY = 4096  # calls of sweep() between two looks, at the most
_MOST = 65536  # contexts that may wait

logger = logging.getLogger(__name__)


class FinishReason(enum.IntEnum):
    """Why a stream ended. The numbers travel beside the key, see `pack`."""

    NOT_FINISHED = 0
    STOP = 1
    LENGTH = 2
    CANCELLED = 3

    @property
    def text(self) -> str:
        """What clients read: stop, length, cancelled, or nothing while the stream runs."""
        return self.name.lower() if self else ""


def pack(key: int, finish_reason: FinishReason) -> int:
    """Key and finish reason in one number below 2**63: a Python engine's output ``stream_key``.

    One tensor less on the way of every token.
    """
    return finish_reason << KEY_BITS | key


def unpack(packed: int) -> tuple[int, FinishReason, int | None]:
    """What `pack` made one of, and which sequence of the key it is, if there are several.

    Raises:
        RequestError: nothing that `pack` made.
    """
    if packed < 0:
        raise RequestError(f"STREAM_KEY is {packed}, which no engine of this package sends")
    sequence, finish_reason = divmod(packed >> KEY_BITS, _REASONS)
    return packed & _KEY_MASK, FinishReason(finish_reason), sequence - 1 if sequence else None


def sequence_key(key: int, sequence: int | None) -> int:
    """What an engine knows a sequence of *key* by, and `pack` takes; None is the only one."""
    return key if sequence is None else (sequence + 1) * _REASONS << KEY_BITS | key


class Carrier(enum.Enum):
    """How a stream's key gets from preprocessing to postprocessing."""

    TENSOR = "tensor"  # a Python engine hands it on as its output stream_key
    SEQUENCE_ID = "sequence_id"  # Triton does, from 25.02 on, as a response parameter
    REQUEST_ID = "request_id"  # the client's own id of the request is the key

    @classmethod
    def choose(cls, wanted: str, *, response_parameters: bool) -> Carrier:
        """Once, when the model loads.

        Args:
            wanted: a carrier's name, or ``auto`` for what this server can do with any engine.
            response_parameters: whether the server's Python backend has them (25.02 and newer).

        Raises:
            SettingsError: unknown, or this server cannot.
        """
        if wanted == "auto":
            return cls.SEQUENCE_ID if response_parameters else cls.REQUEST_ID
        try:
            carrier = cls(wanted)
        except ValueError:
            known = ", ".join(carrier.value for carrier in cls)
            raise SettingsError(
                f"stream_key is {wanted!r}; it must be one of auto, {known}"
            ) from None
        if carrier is cls.SEQUENCE_ID and not response_parameters:
            raise SettingsError(
                "stream_key is 'sequence_id', which needs Triton 25.02 or newer; set it to auto"
            )
        return carrier


def key_of_request_id(request_id: str) -> int | None:
    """The key of a client's request id; None for an empty one."""
    if not request_id:
        return None
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & _KEY_MASK


@dataclass(frozen=True, slots=True)
class StreamContext:
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


_VALUES = attrgetter(*(field.name for field in fields(StreamContext)))


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
        self._mark_of_drain = f"{self._directory}/{MARK}"
        self._max_age_s = max_age_s
        self._next_sweep = time.monotonic() + max_age_s / 4
        self._calls = 0
        self._keys = _random_keys()
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

    def mint(self) -> int:
        """A key that no stream has: 53 random bits, and `put` refuses one that is taken."""
        return next(self._keys)

    def __len__(self) -> int:
        """Contexts that wait to be taken."""
        return sum(1 for _ in self._directory.glob(WAITING))

    def put(self, context: StreamContext) -> int:
        """Store *context* under a new key."""
        while True:
            key = self.mint()
            if self._write(key, 0, context):
                return key

    def put_under(self, key: int, contexts: Sequence[StreamContext]) -> None:
        """Store the contexts of a request's rows under a key that came from elsewhere."""
        for row, context in enumerate(contexts):
            while not self._write(key, row, context):
                self.discard(key, row)  # a client used its id again

    def _write(self, key: int, row: int, context: StreamContext) -> bool:
        """False if there is one already."""
        path = self._path(key, row)
        try:
            smalltexts.write_new(path, json.dumps(_VALUES(context)))
        except FileExistsError:
            return False
        except FileNotFoundError:  # somebody emptied /dev/shm
            self._make()
            return self._write(key, row, context)
        return True

    def has(self, key: int, row: int = 0) -> bool:
        """Whether a context waits."""
        return os.path.lexists(self._path(key, row))

    def take(self, key: int, row: int = 0) -> StreamContext | None:
        """The context of a row of *key*, once; None if there is none, or none that can be read.

        From now on its stream runs, until `release`: whoever stops the server waits for that.
        """
        path = self._path(key, row)
        try:
            data = smalltexts.read(path)
        except FileNotFoundError:
            return None
        with contextlib.suppress(FileNotFoundError):  # swept meanwhile
            os.rename(path, self._open_path(key, row))  # noqa: PTH104
            self.touch(key, row)
        try:
            return StreamContext(*map(_tuples, json.loads(data)))
        except (ValueError, TypeError):
            logger.error("the context of stream %d cannot be read: %r", key, data[:80])
            return None

    def discard(self, key: int, row: int = 0) -> None:
        """Remove the context of a stream that will not reach postprocessing."""
        Path(self._path(key, row)).unlink(missing_ok=True)

    def touch(self, key: int, row: int = 0) -> None:
        """The stream goes on. To be called every few seconds, not per token."""
        with contextlib.suppress(FileNotFoundError):  # one without a context, or swept
            os.utime(self._open_path(key, row), follow_symlinks=False)

    def release(self, key: int, row: int = 0) -> None:
        """The stream whose context was taken has ended."""
        with contextlib.suppress(FileNotFoundError):  # one without a context, or swept
            os.unlink(self._open_path(key, row))  # noqa: PTH108

    @property
    def draining(self) -> bool:
        """Whether the server is about to stop and takes no new requests."""
        return os.access(self._mark_of_drain, os.F_OK)  # per request: no exception if not

    def sweep(self) -> None:
        """Remove what is older than ``max_age_s``, and the oldest where there are too many; looks
        only now and then, so call it freely."""
        self._calls += 1
        if time.monotonic() < self._next_sweep and self._calls % _MANY:
            return
        self._next_sweep = time.monotonic() + self._max_age_s / 4
        found = []
        for path in (*self._directory.glob(WAITING), *self._directory.glob(RUNNING)):
            with contextlib.suppress(FileNotFoundError):  # taken meanwhile
                found.append((path.lstat().st_mtime, path))
        found.sort()
        oldest = time.time() - self._max_age_s
        for number, (written, path) in enumerate(found):
            if written < oldest or number < len(found) - _MOST:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave; the last of a server's models removes the folder."""
        self._mark.unlink(missing_ok=True)
        users = [int(mark.name.split("-")[1]) for mark in self._directory.glob("user-*")]
        if not any(Path(f"/proc/{pid}").exists() for pid in users):
            shutil.rmtree(self._directory, ignore_errors=True)

    def _path(self, key: int, row: int = 0) -> str:
        return f"{self._directory}/{key}.{row}"

    def _open_path(self, key: int, row: int) -> str:
        return f"{self._directory}/open-{key}-{row}"


def _tuples(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _random_keys() -> Iterator[int]:
    """Keys that nobody can guess; the kernel is asked for many at a time."""
    while True:
        for (number,) in struct.iter_unpack("<Q", os.urandom(8 * 256)):
            yield number & _KEY_MASK
