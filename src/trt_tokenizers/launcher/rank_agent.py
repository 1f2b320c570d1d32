"""The rank agent: what MPI starts on each host in place of a bare tritonserver.

It picks its server's command line by its rank, numbers the lines that the server prints, notices
when a Python model's process dies, says how the rank ended on one line of its standard error
(`rank_protocol.RankEvent`), and leaves nothing of it behind on its host, whoever is killed.

Orders are signals, as those reach every host: mpirun (Open MPI 4 and 5, Hydra) and srun pass
SIGUSR1 on to all ranks. Hydra passes no SIGUSR2, so the first SIGUSR1 means «drain» and every
further one «end»:

* drain: rank 0's server takes no new requests, and is asked to stop (SIGTERM) once the running ones
  have finished (`trt_tokenizers.launcher.drain`) or their time is over. The others
  wait for theirs: it ends when its engine ends with rank 0's, or never.
* end: any rank's server is asked to stop, and killed after `END_GRACE` seconds.

SIGINT counts as SIGUSR1, for a command that was pasted into a terminal. SIGTERM kills at once: it
comes from mpirun, which leaves its ranks between 0.25 s (Open MPI 5) and 1 s before it kills them.

Under MPI there are two of it: the child of mpirun, which passes signals on, and beneath it, in a
session of its own, the one that works. When either is killed, also by an MPI that knows SIGKILL
only (Hydra that lost its mpirun), the other cleans up.

Run by its path with ``python -I -S``: standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import IO

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))

from trt_tokenizers.launcher import guardian
from trt_tokenizers.launcher.drain import Drain
from trt_tokenizers.launcher.rank_protocol import RankCommand, RankEvent
from trt_tokenizers.launcher.server_watch import LogReader, StubWatch, copy_output, write_all
from trt_tokenizers.streams.stream_folder import stream_folder

#: Seconds that a server gets to stop once its rank was told to end.
END_GRACE = 5.0
_LOOK_EVERY = 0.25  # seconds
_SIGNALS = (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Sent by the kernel when the parent dies; where the thread that started us ended instead, the
#: parent is still there and nothing happens.
_PARENT_DIED = signal.SIGHUP


class _Agent:
    """One rank, from its start to its end."""

    def __init__(self, ranks: RankCommand, rank: int) -> None:
        self._ranks = ranks
        self._rank = rank
        self._argv = ranks.argv_of(rank)
        self._log = LogReader()
        self._label = f"[{rank}] ".encode() if ranks.follower and not ranks.log_dir else b""
        self._writing = threading.Lock()
        self._pid = 0
        self._asked = 0
        self._drain: Drain | None = None
        self._kill_at = math.inf
        self._sent: set[int] = set()
        self._folders: set[Path] = set()

    def run(self) -> int:
        """The exit code of the agent."""
        guardian.adopt_orphans()
        parent = os.getppid()
        guardian.signal_on_parents_death(_PARENT_DIED)
        awake = guardian.wake_on((*_SIGNALS, signal.SIGCHLD))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        with contextlib.ExitStack() as stack:
            outputs = (1, 2)
            if self._ranks.log_dir:
                path = Path(self._ranks.log_dir) / f"rank{self._rank}.log"
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    log = stack.enter_context(path.open("ab", buffering=0))
                except OSError as error:
                    return self._unstartable(1, f"--log-dir: {path}: {error.strerror}")
                outputs = (log.fileno(), log.fileno())
            env = dict(pair.split("=", 1) for pair in self._ranks.env)
            try:
                server = subprocess.Popen(
                    self._argv,
                    env={**os.environ, **env},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    preexec_fn=guardian.die_with_parent(os.getpid()),  # noqa: PLW1509 - one thread yet
                )
            except OSError as error:
                return self._unstartable(126, f"{self._argv[0]} cannot be run: {error.strerror}")
            self._pid = server.pid
            shm_prefix = self._ranks.shm_prefix_of(self._rank)
            guardian.name_stream_folder(shm_prefix, stream_folder(server.pid))
            self._report("started")
            threads = [
                threading.Thread(target=self._copy, args=(source, target), daemon=True)
                for source, target in zip((server.stdout, server.stderr), outputs, strict=True)
            ]
            for thread in threads:
                thread.start()
            end = self._watch(awake, parent)
            # Python gives signals back to their default while it ends, and the order to end may
            # come to a rank that has just drained.
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            self._folders |= guardian.kill_all_beneath(os.getpid())
            server.returncode = 0  # it was collected
            for thread in threads:  # what it said last explains its end
                thread.join(timeout=2.0)
            guardian.sweep(shm_prefix, self._folders)
            return self._ended(end)

    def _watch(self, awake: int, parent: int) -> int | RankEvent:
        """Until the server has ended (its return code) or must, for the reason reported."""
        stubs: StubWatch | None = None
        # Said twice: ready waits for it, and mpirun may have cut the first one to pieces.
        again_at = time.monotonic() + 1.0
        while True:
            dead = guardian.reap(self._folders)
            if self._pid in dead:
                return dead[self._pid]
            now = time.monotonic()
            if now >= self._kill_at:
                self._kill_at = math.inf
                self._signal(signal.SIGKILL)
            if self._drain is not None and self._drain.done(now):
                self._drain = None
                self._signal(signal.SIGTERM)
            if now >= again_at:
                again_at = math.inf
                self._report("started")
            if stubs is None or stubs.server != self._serving_pid():
                stubs = StubWatch(self._serving_pid())
            if (died := stubs.look(now)) and not self._asked:
                return self._end(died, 1)
            select.select([awake], [], [], _LOOK_EVERY)
            numbers = b""
            with contextlib.suppress(BlockingIOError):
                numbers = os.read(awake, 4096)
            for number in numbers:
                if (end := self._obey(number, parent)) is not None:
                    return end

    def _obey(self, number: int, parent: int) -> RankEvent | None:
        """Take a signal; a report if it ends the rank at once."""
        if number in (signal.SIGUSR1, signal.SIGINT):
            self._asked += 1
            if self._asked == 1 and self._rank == 0:
                folder = stream_folder(self._serving_pid())
                self._drain = Drain(folder, time.monotonic(), self._ranks.drain)
            elif self._asked > 1:
                self._drain = None
                self._signal(signal.SIGTERM)
                self._kill_at = min(self._kill_at, time.monotonic() + END_GRACE)
        elif number == signal.SIGTERM:
            return self._end("killed, as its MPI ended it (SIGTERM)", 143)
        elif number == _PARENT_DIED and os.getppid() != parent:
            return self._end("killed, as what started it is gone", 143)
        return None

    def _signal(self, number: int) -> None:
        self._sent.add(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._serving_pid(), number)

    def _serving_pid(self) -> int:
        """tritonserver itself where a wrapper (trtllm-llmapi-launch) was started."""
        if Path(self._argv[0]).name == "tritonserver":
            return self._pid
        for pid in guardian.descendants(self._pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "tritonserver\n":
                    return pid
        return self._pid

    def _copy(self, source: IO[bytes], target: int) -> None:
        def take(lines: bytes) -> None:
            for model in self._log.feed(lines, source.fileno()):
                self._report("loaded", text=model)
            if self._label:
                lines = b"".join(self._label + line for line in lines.splitlines(keepends=True))
            with self._writing:
                write_all(target, lines)

        # A number in front of half a line would be one in the middle of it.
        copy_output(source.fileno(), take, None if self._label else 0.05)

    def _end(self, text: str, code: int) -> RankEvent:
        return RankEvent(self._rank, "ended", text=text, code=code, told=code == 143)

    def _unstartable(self, code: int, text: str) -> int:
        return self._ended(self._end(text, code))

    def _ended(self, end: int | RankEvent) -> int:
        if isinstance(end, int):
            clean = end == 0 or -end in self._sent or self._log.drained
            if self._asked and clean:
                end = RankEvent(self._rank, "ended")
            else:
                how = signal.Signals(-end).name if end < 0 else f"exit code {end}"
                code = 128 - end if end < 0 else end or 1
                text = self._log.reason or ""
                end = RankEvent(self._rank, "ended", text=text, code=code, how=how)
        if end.code and not end.told and self._ranks.log_dir:
            with self._writing:
                for line in self._log.tail:
                    write_all(2, f"[{self._rank}] {line}\n".encode())
        said = {**dataclasses.asdict(end), "event": "ended"}
        self._report(**said)
        if self._ranks.follower:
            self._report(**said)  # mpirun may cut one to pieces
        return end.code

    def _report(self, event: str, **more: object) -> None:
        """Best effort: nothing may wait for a reader who left."""
        where = {"host": socket.gethostname(), "pid": self._serving_pid()}
        fields = {**more, "rank": self._rank, **where}
        report = RankEvent(event=event, **fields)  # type: ignore[arg-type]
        line = report.to_line(self._ranks.mark)
        if not self._writing.acquire(timeout=2.0):
            return
        try:
            # mpirun hands on what it reads, at most 4 KB at once, and another rank's piece may
            # come in between. A pipe that is empty before holds one whole piece afterwards.
            deadline = time.monotonic() + 1.0
            while _unread(2) and time.monotonic() < deadline:
                time.sleep(0.005)
            if select.select([], [2], [], 2.0)[1]:
                with contextlib.suppress(OSError):
                    os.write(2, line)
        finally:
            self._writing.release()


def _unread(pipe: int) -> int:
    with contextlib.suppress(OSError):  # a file or a terminal
        return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0])
    return 0


def _stand_in(ranks: RankCommand, rank: int) -> None:
    """Fork, and return in the child. The parent is what mpirun knows: it passes signals on and
    ends as the child did, after it has cleaned up where the child could not."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until both have their handlers
    front = os.getpid()
    worker = os.fork()
    if worker == 0:
        os.setsid()
        guardian.signal_on_parents_death(signal.SIGKILL)  # until `run` asks for another
        if os.getppid() != front:
            os._exit(1)
        return
    parent = os.getppid()
    guardian.adopt_orphans()
    guardian.signal_on_parents_death(_PARENT_DIED)

    def pass_on(number: int, _: object) -> None:
        if number == _PARENT_DIED:
            if os.getppid() == parent:
                return
            number = signal.SIGTERM
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, number)

    for number in _SIGNALS:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    killed = guardian.kill_all_beneath(os.getpid())
    guardian.sweep(ranks.shm_prefix_of(rank), killed)
    if code < 0:  # it could not say so itself, and Hydra would let the others go on
        code, how = 128 - code, signal.Signals(-code).name
        text = "the agent of the rank was killed"
        end = RankEvent(rank, "ended", host=socket.gethostname(), text=text, code=code, how=how)
        with contextlib.suppress(OSError):
            os.write(2, end.to_line(ranks.mark))
    os._exit(code)


def _rank_of(ranks: RankCommand) -> int:
    if not ranks.rank_variable:
        return 0
    value = os.environ.get(ranks.rank_variable, "")
    if not value.isdigit():
        sys.stderr.write(
            f"error: {ranks.rank_variable} is {value!r}, and this MPI should have set it to the "
            "rank; start it with the mpirun of that MPI, or name the right one with --mpi\n"
        )
        sys.exit(2)
    return int(value)


def main() -> None:
    ranks = RankCommand.from_argv(sys.argv[1:])
    rank = _rank_of(ranks)
    if ranks.rank_variable:
        _stand_in(ranks, rank)
    sys.exit(_Agent(ranks, rank).run())


if __name__ == "__main__":
    main()
