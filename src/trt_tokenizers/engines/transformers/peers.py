"""The ranks of a parallel engine find each other, and notice at once when one of them is gone.

Every rank keeps one TCP connection to rank 0. The kernel closes it whenever a process ends,
however it ends, so its silence needs no timeout; a host that is gone is found by keep-alive
probes. The collectives cannot be relied on for this: gloo's fail when a peer's socket closes, but
a rank that waits for its GPU inside NCCL waits until NCCL's watchdog gives up, ten minutes later.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable

from trt_tokenizers.errors import EngineError
from trt_tokenizers.mpi_environment import Rank

_HELLO_S = 5.0  # for a line of somebody who has connected
_RETRY_S = 0.1  # between attempts to reach a leader that does not listen yet
_SIOCGIFADDR = 0x8915  # address of an interface, linux/sockios.h
_STOP = b"stop\n"
_BYE = b"bye\n"


class Peers:
    """The connections of one rank: the leader's to all others, or another's to the leader.

    Attributes:
        note: what the leader has told all others when they met.
        stopping: set once the leader has said that it stops.
        lost: who is gone without a word; None while all are there.
        settled: set once `stopping` or `lost` is.
    """

    def __init__(
        self, rank: Rank, address: tuple[str, int], facts: str, note: str, timeout: float
    ) -> None:
        """Meet the others; returns when all are there.

        Args:
            address: where the leader listens; nowhere else.
            facts: what all ranks must have in common, for people too.
            note: the leader's, for all.
            timeout: seconds for all to come.

        Raises:
            EngineError: somebody did not come or is not like the leader; names who, on every rank.
        """
        self.note = note
        self.lost: str | None = None
        self.stopping = threading.Event()
        self.settled = threading.Event()
        self._rank = rank
        self._where = f"MASTER_ADDR {address[0]}, MASTER_PORT {address[1]}"
        self._sockets: dict[int, socket.socket] = {}  # by the rank at the other end
        self._closing = False
        self._watcher: threading.Thread | None = None
        deadline = time.monotonic() + timeout
        try:
            if rank.index == 0:
                self._gather(address, facts, deadline)
            else:
                self._join(address, facts, deadline)
        except BaseException:
            self.close()
            raise
        for connection in self._sockets.values():
            _keep_alive(connection)

    @property
    def own_address(self) -> str:
        """This host's address on the network on which the ranks have met."""
        name: str = next(iter(self._sockets.values())).getsockname()[0]
        return name

    def _gather(self, address: tuple[str, int], facts: str, deadline: float) -> None:
        try:
            listener = socket.create_server(address)
        except OSError as error:
            raise EngineError(
                f"rank 0 cannot listen on {self._where}: {error.strerror or error}; "
                "give an address of this host and a free port"
            ) from error
        problem = None
        with listener:
            while len(self._sockets) < self._rank.size - 1 and problem is None:
                listener.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    absent = set(range(1, self._rank.size)) - self._sockets.keys()
                    names = ", ".join(map(str, sorted(absent)))
                    problem = f"rank {names} of {self._rank.size} did not come to {self._where}"
                    continue
                problem = self._admit(connection, facts)
        answer = json.dumps({"note": self.note, "problem": problem}).encode() + b"\n"
        for connection in self._sockets.values():
            with contextlib.suppress(OSError):  # noticed by the watch
                connection.sendall(answer)
        if problem is not None:
            raise EngineError(f"{problem}; see what its log says, and start all ranks alike")

    def _admit(self, connection: socket.socket, facts: str) -> str | None:
        """Take a rank in; why it does not fit, if it does not."""
        try:
            hello = json.loads(_line(connection))
            index, size, theirs = int(hello["rank"]), int(hello["size"]), str(hello["facts"])
        except (OSError, ValueError, KeyError, TypeError):  # no rank: somebody who scans ports
            connection.close()
            return None
        taken = index in self._sockets or not 0 < index < self._rank.size
        self._sockets[-1 - len(self._sockets) if taken else index] = connection
        if size != self._rank.size:
            return f"rank {index} is one of {size} and rank 0 one of {self._rank.size}"
        if taken:
            return f"there are two ranks {index}"
        if theirs != facts:
            return f"rank {index} has {theirs} and rank 0 has {facts}"
        return None

    def _join(self, address: tuple[str, int], facts: str, deadline: float) -> None:
        while True:
            try:
                connection = socket.create_connection(address, timeout=_HELLO_S)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"rank {self._rank.index} cannot reach rank 0 on {self._where}: "
                        f"{error.strerror or error}; see what rank 0's log says"
                    ) from error
            time.sleep(_RETRY_S)
        self._sockets[0] = connection
        hello = {"rank": self._rank.index, "size": self._rank.size, "facts": facts}
        try:
            connection.sendall(json.dumps(hello).encode() + b"\n")
            # The leader answers when the last rank has come.
            answer = json.loads(_line(connection, max(_HELLO_S, deadline - time.monotonic())))
        except (OSError, ValueError) as error:
            raise EngineError(
                f"rank 0 on {self._where} has ended before all ranks had come; "
                "see what its log says"
            ) from error
        if answer["problem"] is not None:
            raise EngineError(f"{answer['problem']}; start all ranks alike")
        self.note = answer["note"]

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """From now on *on_lost* is called, once, in another thread, when a rank is gone."""
        self._watcher = threading.Thread(
            target=self._watch, args=(on_lost,), name="engine-peers", daemon=True
        )
        self._watcher.start()

    def _watch(self, on_lost: Callable[[str], None]) -> None:
        with selectors.DefaultSelector() as selector:
            for index, connection in self._sockets.items():
                connection.settimeout(None)
                selector.register(connection, selectors.EVENT_READ, index)
            while selector.get_map():
                for key, _ in selector.select():
                    word = b""
                    with contextlib.suppress(OSError):
                        word = key.fileobj.recv(16)  # type: ignore[union-attr]
                    if _STOP in word:
                        self.stopping.set()
                        self.settled.set()
                    if word and _BYE not in word:
                        continue
                    selector.unregister(key.fileobj)
                    if not word and not (self._closing or self.stopping.is_set()):
                        self.lost = _gone(key.data)
                        self.settled.set()
                        on_lost(self.lost)
                        return

    def tell_stop(self) -> None:
        """The leader's word to all others that what ends now ends well."""
        self.stopping.set()
        self.settled.set()
        for connection in self._sockets.values():
            with contextlib.suppress(OSError):
                connection.sendall(_STOP)

    def close(self, wait: float = 0.0) -> None:
        """Part from the others with a word; the leader may *wait* so many seconds for theirs."""
        self._closing = True
        for connection in self._sockets.values():
            with contextlib.suppress(OSError):
                connection.sendall(_BYE)
                connection.shutdown(socket.SHUT_WR)
        if self._watcher is not None:
            self._watcher.join(wait)
            if self._watcher.is_alive():
                return  # the process ends soon, and its connections with it
        for connection in self._sockets.values():
            connection.close()


def _gone(index: int) -> str:
    return f"rank {index}{', the leader,' if index == 0 else ''} has ended"


def _line(connection: socket.socket, timeout: float = _HELLO_S) -> bytes:
    """The next line, of at most 64 KiB.

    Raises:
        OSError: it did not come in time.
    """
    deadline = time.monotonic() + timeout
    found = bytearray()
    while not found.endswith(b"\n"):
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        # One by one: what follows the line is for the watch.
        byte = connection.recv(1)
        if not byte or len(found) > 65536:
            raise ConnectionError("closed before the end of a line")
        found += byte
    return bytes(found)


def _keep_alive(connection: socket.socket) -> None:
    """Find a host that is gone, or unplugged, within half a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 10),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 4),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def interface_of(address: str) -> str | None:
    """The network interface that has this IPv4 address, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):
                found = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return None
