"""Records in memory that processes share: no system call to write one, to read or to remove it.

A record's key says where it is: `PLACED`, 32 random bits that make it hard to guess, the table, the
slot. A table is a file of some slots on tmpfs, mapped by everybody; one process puts records into
it, whoever knows a key takes and removes them. What a slot is stands in a byte of its own, which is
written last: a record is there as a whole or not at all.

Standard library only, as the agent that waits for a server's streams is. Times are seconds of
`time.monotonic`, one clock for all processes of a host.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

#: Keys are below 2**53: a JSON number holds no more without rounding.
KEY_BITS = 53
#: Set in the keys that are given here, and in no others.
PLACED = 1 << (KEY_BITS - 1)

_SLOT_BITS = 10
_PLACE_BITS = 20  # table and slot
_SLOTS = 1 << _SLOT_BITS
_TABLES = 1 << (_PLACE_BITS - _SLOT_BITS)  # of a server
_MOST_TABLES = 16  # of one process
_SLOT_BYTES = 256
_HEAD = struct.Struct("<QdH")  # key, when it was last heard of, length of the record
_HEARD = struct.Struct("<d")
_HEARD_AT = 8
_MAKER_AT = _SLOTS + _SLOTS * _SLOT_BYTES  # behind the states and the slots
_MAKER = struct.Struct("<Q")  # process id
_TABLE_BYTES = _MAKER_AT + _MAKER.size
_FREE, _WAITING, _TAKEN = range(3)  # states
_FREE_BYTE = bytes([_FREE])
_NAMES = "slots-*"
_FULL_S = 5.0  # tmpfs is not asked again for so long

#: Bytes of the longest record.
ROOM = _SLOT_BYTES - _HEAD.size

logger = logging.getLogger(__name__)


class _Table:
    def __init__(self, path: Path, *, new: bool = False) -> None:
        """
        Args:
            new: make the file, which must not be there.

        Raises:
            OSError: there is no such file, or there is one; tmpfs is full, and nothing is left.
            ValueError: the file is no table, or not yet.
        """
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if new else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            if new:
                # Memory that is missing when it is written to would end the process.
                os.posix_fallocate(descriptor, 0, _TABLE_BYTES)
            self.memory = mmap.mmap(descriptor, _TABLE_BYTES)
            self._file = os.fstat(descriptor)
            if new:
                _MAKER.pack_into(self.memory, _MAKER_AT, os.getpid())
        except OSError:
            if new:
                path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def state(self, slot: int, key: int) -> int:
        """That of the record *key*: `_FREE` if another one is in its place, or none."""
        if _HEAD.unpack_from(self.memory, _SLOTS + slot * _SLOT_BYTES)[0] != key:
            return _FREE
        return self.memory[slot]

    def is_at(self, path: Path) -> bool:
        """Whether *path* is this file, and not another one by now."""
        try:
            return os.path.samestat(self._file, path.stat())
        except FileNotFoundError:
            return False

    def is_left(self) -> bool:
        """Whether nobody needs it any more: its maker is gone, and it is empty."""
        (maker,) = _MAKER.unpack_from(self.memory, _MAKER_AT)
        return not Path(f"/proc/{maker}").exists() and not any(self.busy())

    def busy(self) -> Iterator[tuple[int, float]]:
        """Slot and last time of every record."""
        for slot, state in enumerate(self.memory[:_SLOTS]):
            if state != _FREE:
                at = _SLOTS + slot * _SLOT_BYTES + _HEARD_AT
                yield slot, _HEARD.unpack_from(self.memory, at)[0]


class Slots:
    """One process' view of the tables in a folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._own: dict[int, _Table] = {}  # those that it puts into
        self._met: dict[int, _Table] = {}  # those that it takes from
        self._random = _random_bits()
        self._full_until = 0.0

    def put(self, record: bytes) -> int | None:
        """A new key for *record*, which now waits; None if there is no room for it.

        Raises:
            FileNotFoundError: there is no folder.
        """
        if len(record) > ROOM:
            return None
        for number, table in self._own.items():
            # The first one, so that few pages are in use as a rule.
            if (slot := table.memory.find(_FREE_BYTE, 0, _SLOTS)) >= 0:
                return self._fill(number, table, slot, record)
        made = self._make_table()
        return None if made is None else self._fill(*made, 0, record)

    def _fill(self, number: int, table: _Table, slot: int, record: bytes) -> int:
        memory, at = table.memory, _SLOTS + slot * _SLOT_BYTES
        key = PLACED | next(self._random) << _PLACE_BITS | number << _SLOT_BITS | slot
        _HEAD.pack_into(memory, at, key, time.monotonic(), len(record))
        memory[at + _HEAD.size : at + _HEAD.size + len(record)] = record
        memory[slot] = _WAITING
        return key

    def has(self, key: int) -> bool:
        """Whether the record waits."""
        table, slot = self._place(key)
        return table is not None and table.state(slot, key) == _WAITING

    def take(self, key: int) -> bytes | None:
        """The record, which waits no longer; None if it does not wait."""
        table, slot = self._place(key)
        if table is None or table.state(slot, key) != _WAITING:
            return None
        at = _SLOTS + slot * _SLOT_BYTES
        length = _HEAD.unpack_from(table.memory, at)[2]
        record = table.memory[at + _HEAD.size : at + _HEAD.size + length]
        table.memory[slot] = _TAKEN
        self.touch(key)
        return record

    def discard(self, key: int) -> None:
        """Remove the record if it waits."""
        self._free(key, _WAITING)

    def touch(self, key: int) -> None:
        """What took the record goes on."""
        table, slot = self._place(key)
        if table is not None and table.state(slot, key) == _TAKEN:
            at = _SLOTS + slot * _SLOT_BYTES + _HEARD_AT
            _HEARD.pack_into(table.memory, at, time.monotonic())

    def release(self, key: int) -> None:
        """Remove the record if it was taken."""
        self._free(key, _TAKEN)

    def sweep(self, max_age_s: float) -> None:
        """Remove the records that were not heard of for so long."""
        oldest = time.monotonic() - max_age_s
        for _, table in _tables(self._directory):
            for slot, heard in table.busy():
                if heard < oldest:
                    table.memory[slot] = _FREE
        self._remove_left()

    def look(self) -> None:
        """Notice that somebody emptied the folder. To be called a few times a second."""
        if gone := [n for n, table in self._own.items() if not table.is_at(self._path(n))]:
            for number in gone:
                del self._own[number]

    def close(self) -> None:
        """Leave; what still waits stays for those who will take it."""
        for number, table in self._own.items():
            if not any(table.busy()) and table.is_at(self._path(number)):
                self._path(number).unlink(missing_ok=True)
        self._own.clear()
        self._met.clear()

    def _free(self, key: int, state: int) -> None:
        table, slot = self._place(key)
        if table is not None and table.state(slot, key) == state:
            table.memory[slot] = _FREE

    def _place(self, key: int) -> tuple[_Table | None, int]:
        number, slot = (key >> _SLOT_BITS) % _TABLES, key % _SLOTS
        table = self._met.get(number)
        if table is None or table.state(slot, key) == _FREE:
            # Not met yet, or another file by now.
            with contextlib.suppress(OSError, ValueError):
                table = self._met[number] = _Table(self._path(number))
        return table, slot

    def _make_table(self) -> tuple[int, _Table] | None:
        if len(self._own) >= _MOST_TABLES or time.monotonic() < self._full_until:
            return None
        self._remove_left()
        for number in range(_TABLES):
            try:
                self._own[number] = _Table(self._path(number), new=True)
            except FileExistsError:
                continue
            except FileNotFoundError:
                raise
            except OSError as error:
                logger.warning("no shared memory for one more table of streams: %s", error)
                self._full_until = time.monotonic() + _FULL_S
                return None
            return number, self._own[number]
        return None

    def _remove_left(self) -> None:
        for path, table in _tables(self._directory):
            if table.is_left() and table.is_at(path):
                path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._directory / _NAMES.replace("*", str(number))


def found(directory: Path) -> Iterator[tuple[bool, float]]:
    """Every record in the folder: whether it waits, and for how many seconds nothing was heard."""
    now = time.monotonic()
    for _, table in _tables(directory):
        for slot, heard in table.busy():
            yield table.memory[slot] == _WAITING, now - heard


def _tables(directory: Path) -> Iterator[tuple[Path, _Table]]:
    for path in directory.glob(_NAMES):
        with contextlib.suppress(OSError, ValueError):  # removed meanwhile, or being made
            yield path, _Table(path)


def _random_bits() -> Iterator[int]:
    """32 at a time; the kernel is asked for many."""
    while True:
        for (number,) in struct.iter_unpack("<I", os.urandom(4 * 256)):
            yield number
