"""The context of each stream, handed from preprocessing to postprocessing.

Triton passes nothing between the two models except the engine's tensors. Preprocessing therefore
writes what postprocessing must know to a file on tmpfs, in a folder named after the tritonserver
process, the parent of all Python models of a server.

``running-KEY-ROW`` holds a context until its stream ends. Its ctime is the stream's last sign of
life: `touch` updates it. A Python engine touches the contexts of its waiting requests and
postprocessing those of its streams. A file that nobody touches, as of a client that calls
preprocessing alone, soon does not delay a stop any more.

TensorRT-LLM's C++ backend touches nothing. The contexts for it are ``waiting-KEY-ROW`` until
postprocessing takes them, and a draining server waits for these without a limit, unless the request
shows that a client calls preprocessing alone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import marshal
import os
import shutil
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trt_tokenizers.errors import EngineError, RequestError, SettingsError
from trt_tokenizers.streams import stream_folder as folders
from trt_tokenizers.streams.stream_key import KEY_BITS, key_of_request_id

#: Seconds between two checks whether the server is draining.
LOOK_S = 0.05
#: Seconds without a response after which a client may use a request id again. A running stream may
#: have ended, because many engines do not mark their last response. A waiting one may have been
#: refused or cancelled, which only the engine and the client know.
_SILENT_S = 10.0
_WAITING_S = 30.0
_SWEEP_CALLS = 4096  # calls of sweep() between two scans of the folder, at most
_MAX_CONTEXTS = 65536  # in a folder

logger = logging.getLogger(__name__)


class RequestContext(NamedTuple):
    """What postprocessing must know of one sequence.

    Attributes:
        num_input_tokens: token ids of the prompt.
        end_ids: ids that end the answer; its text does not include them.
        stop_strings: texts that end the answer.
        include_stop: whether the text includes the stop string that ended it.
        skip_special_tokens: whether the text omits special tokens.
        echo: the prompt's text, to prepend to the answer; empty if the client did not ask for it.
        continues: whether the answer continues the prompt's text. Otherwise it begins a new text,
            and SentencePiece-like tokenizers drop a leading space.
        stream: whether the client asked for a stream; otherwise the first response is the last.
        max_tokens: maximum tokens of the answer, end id included; 0: unknown.
        min_tokens: before this many tokens only max_tokens ends the answer.
        arrived: when preprocessing got the request, seconds of `time.monotonic`; 0: unknown.
        stop_ids: token ids of the stop words, in every tokenization that the engine got.
        prompt_end: end of the prompt's text, for a client that asks for the places of added tokens;
            None for other clients.
        return_token_ids: whether the client asked for the answer's token ids.
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
    prompt_end: str | None = None
    return_token_ids: bool = False

    def to_record(self) -> bytes:
        """The context as the values of its fields in order."""
        return marshal.dumps(tuple(self), 4)  # every Python reads version 4

    @classmethod
    def from_record(cls, record: bytes) -> RequestContext:
        """The inverse of `to_record`.

        Raises:
            EOFError, ValueError, TypeError: *record* is not a context.
        """
        return cls(*marshal.loads(record))


class ContextStore:
    """Contexts by key and row, shared by the Python models of one server."""

    # It calls `os` directly: pathlib and file objects cost more than the system calls.

    def __init__(self, directory: Path | None = None, max_age_s: float = 3600.0) -> None:
        """Open the store and create its folder if needed.

        Args:
            directory: the folder; by default the stream folder of the parent process.
            max_age_s: seconds without a sign of life after which `sweep` removes a context.

        Raises:
            SettingsError: the folder belongs to another user or is open to others.
            EngineError: the file system is full.
        """
        self.directory = directory or folders.stream_folder(os.getppid())
        self._waiting = f"{self.directory}/{folders.WAITING}"
        self._running = f"{self.directory}/{folders.RUNNING}"
        self._drain_mark = f"{self.directory}/{folders.MARK}"
        self._draining = False
        self._next_look = 0.0
        self._max_age_s = max_age_s
        self._next_sweep = time.monotonic() + max_age_s / 4
        self._calls = 0
        # Several models share the folder; the last one that closes its store removes it.
        self._user_mark = self.directory / f"user-{os.getpid()}-{id(self)}"
        self._scratch = f"{self._user_mark}-new"
        try:
            self._make_folder()
        except OSError as error:
            raise self._explained(error) from None

    def _make_folder(self) -> None:
        """Create the folder, private: a process that can write here can answer for clients."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.directory.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if not ours or stat.S_IMODE(found.st_mode) & 0o077:
            raise SettingsError(f"{self.directory} is not private to this user; remove it")
        self._user_mark.touch(mode=0o600)

    def put(self, *contexts: RequestContext, direct: bool = False) -> int:
        """Store the contexts of a request's rows under a new key; if that fails, none is left.

        Args:
            direct: whether a client calls preprocessing alone; then no engine has the request.

        Raises:
            EngineError: the file system is full.
        """
        return self._put_new(self._running if direct else self._waiting, contexts)

    def put_each(self, contexts: Sequence[RequestContext]) -> list[int]:
        """Store each context under its own new key, for an engine that touches the contexts of
        waiting requests; if that fails, none is left.

        Raises:
            EngineError: the file system is full.
        """
        keys: list[int] = []
        try:
            for context in contexts:
                keys.append(self._put_new(self._running, [context]))
        except Exception:
            for key in keys:
                self.release(key)
            raise
        return keys

    def put_under(
        self, request_id: str, contexts: Sequence[RequestContext], *, direct: bool = False
    ) -> None:
        """Store the contexts of a request's rows under the key of a client's request id.

        Args:
            direct: as of `put`.

        Raises:
            RequestError: another request with this id has not ended.
            EngineError: the file system is full.
        """
        key, now = key_of_request_id(request_id), time.time()
        try:
            for row in range(len(contexts)):
                for prefix, seconds in ((self._running, _SILENT_S), (self._waiting, _WAITING_S)):
                    with contextlib.suppress(FileNotFoundError):
                        if now - os.stat(f"{prefix}{key}-{row}").st_ctime < seconds:  # noqa: PTH116
                            raise FileExistsError
                self.discard(key, row)
            prefix = self._running if direct else self._waiting
            self._put_rows(f"{prefix}{key}", contexts, whole=True)
        except FileExistsError:
            raise RequestError(
                f"the request id {request_id!r} is in use by a request that has not ended; send "
                f"another id with each request. The id of a failed request is free after "
                f"{_WAITING_S:.0f} s"
            ) from None

    def _put_new(self, prefix: str, contexts: Sequence[RequestContext]) -> int:
        while True:
            key = int.from_bytes(os.urandom(8), "little") % (1 << KEY_BITS)
            with contextlib.suppress(FileExistsError):
                self._put_rows(f"{prefix}{key}", contexts)
                return key

    def _put_rows(
        self, prefix: str, contexts: Sequence[RequestContext], *, whole: bool = False
    ) -> None:
        """Write the files PREFIX-ROW; with *whole* each appears with its full content."""
        written: list[str] = []
        try:
            for row, context in enumerate(contexts):
                path = f"{prefix}-{row}"
                self._write(self._scratch if whole else path, context.to_record())
                if whole:
                    try:
                        os.link(self._scratch, path)
                    finally:
                        os.unlink(self._scratch)  # noqa: PTH108
                written.append(path)
        except OSError as error:
            for path in written:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)  # noqa: PTH108
            raise self._explained(error) from None

    def _explained(self, error: OSError) -> Exception:
        """*error*, or an error with the fix if the file system is full."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return error
        return EngineError(
            f"{self.directory.parent} is full: the contexts of requests cannot be stored; enlarge "
            "it (docker run --shm-size, an emptyDir of medium Memory), or remove files from it"
        )

    def _write(self, path: str, record: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:  # somebody emptied /dev/shm
            self._make_folder()
            descriptor = os.open(path, flags, 0o600)
        try:
            while record:
                record = record[os.write(descriptor, record) :]
        except OSError:
            os.unlink(path)  # noqa: PTH108
            raise
        finally:
            os.close(descriptor)

    def has(self, key: int, row: int = 0) -> bool:
        """Whether a context waits."""
        return os.path.exists(f"{self._waiting}{key}-{row}")  # noqa: PTH110

    def take(self, key: int, row: int = 0) -> RequestContext | None:
        """The context of a row, until `release`; None if there is none or if it is damaged."""
        running = f"{self._running}{key}-{row}"
        try:
            descriptor = os.open(running, os.O_RDONLY)
        except FileNotFoundError:
            try:
                os.rename(f"{self._waiting}{key}-{row}", running)  # noqa: PTH104
                descriptor = os.open(running, os.O_RDONLY)
            except FileNotFoundError:
                return None
        try:
            record = os.read(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
        try:
            return RequestContext.from_record(record)
        except (EOFError, ValueError, TypeError):
            logger.error("the context of stream %d cannot be read: %r", key, record[:80])
            return None

    def discard(self, key: int, row: int = 0) -> None:
        """Remove a waiting context."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._waiting}{key}-{row}")  # noqa: PTH108

    def touch(self, key: int, row: int = 0) -> None:
        """Record that a stream is alive. Call it every few seconds, not per token."""
        with contextlib.suppress(FileNotFoundError):  # it had no context, or has ended
            os.utime(f"{self._running}{key}-{row}")

    def release(self, key: int, row: int = 0) -> None:
        """Record that a stream has ended."""
        with contextlib.suppress(FileNotFoundError):  # it had no context, or was swept
            os.unlink(f"{self._running}{key}-{row}")  # noqa: PTH108

    def draining(self, now: float) -> bool:
        """Whether the server takes no new requests, at *now*, seconds of `time.monotonic`."""
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            self._draining = os.path.exists(self._drain_mark)  # noqa: PTH110
        return self._draining

    def sweep(self, now: float) -> None:
        """Remove contexts that are too old or too many, at *now*, seconds of `time.monotonic`.

        It scans the folder rarely, so most calls return at once.
        """
        self._calls += 1
        if now < self._next_sweep and self._calls % _SWEEP_CALLS:
            return
        self._next_sweep = now + self._max_age_s / 4
        streams = sorted(folders.open_streams(self.directory), key=lambda stream: stream.silent_s)
        for number, stream in enumerate(streams):
            if stream.silent_s > self._max_age_s or number >= _MAX_CONTEXTS:
                stream.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the store. The last model of a server removes the folder."""
        self._user_mark.unlink(missing_ok=True)
        users = [int(mark.name.split("-")[1]) for mark in self.directory.glob("user-*")]
        if not any(Path(f"/proc/{pid}").exists() for pid in users):
            shutil.rmtree(self.directory, ignore_errors=True)
