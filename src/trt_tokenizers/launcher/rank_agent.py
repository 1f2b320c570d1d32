"""The rank agent: MPI starts it on each host instead of a bare tritonserver.

It runs the server of its rank, prefixes its output lines with the rank, reports what happens to it
(`rank_protocol.RankEvent`, one line on standard error), and cleans up its host.

Orders are signals. mpirun (Open MPI 4 and 5, Hydra) and srun forward SIGUSR1 to all ranks on all
hosts; Hydra does not forward SIGUSR2. SIGINT counts as SIGUSR1, for a user's terminal.

* The first SIGUSR1 means drain: rank 0's server gets SIGTERM when its running requests have
  finished (`drain`). The other servers end when their engines end with rank 0's, or not at all.
* Every further SIGUSR1 means end: SIGTERM for each server, and SIGKILL `END_GRACE` seconds later.
* SIGTERM kills at once: mpirun sends it, and kills its ranks 0.25 s (Open MPI 5) to 1 s later.

Under MPI each rank has two agent processes: the relay, a child of mpirun that forwards signals, and
its child in a new session, the worker. If one of them is killed, the other cleans up; Hydra sends
nothing but SIGKILL when its mpirun is gone. An agent that loses its parent removes the whole
launch's files on this host, because the launcher may have been killed.

Run by its path with ``python -I -S``, so it may use the standard library only.
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
import sys
import termios
import threading
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))

from trt_tokenizers.launcher import process_tree, shared_memory
from trt_tokenizers.launcher.drain import Drain
from trt_tokenizers.launcher.rank_protocol import RankCommand, RankEvent
from trt_tokenizers.launcher.relay import PARENT_DIED, SIGNALS, clean_up, fork_worker
from trt_tokenizers.launcher.server_watch import LogReader, StubWatch, copy_output, write_all
from trt_tokenizers.streams.stream_folder import stream_folder

#: Seconds between the SIGTERM and the SIGKILL to a server whose rank must end.
END_GRACE = 5.0
#: Seconds for a server without requests and Python processes to end by itself.
_UNLOADED_GRACE = 2.0
_LOOK_EVERY = 0.1  # seconds
_LONGEST_TAIL = 200  # characters of a line in the report of an end


class _Agent:
    """One rank, from its start to its end."""

    def __init__(self, command: RankCommand, rank: int) -> None:
        self._command = command
        self._rank = rank
        self._prefix = command.shm_prefix_of(rank)
        self._argv = command.argv_of(rank)
        self._log = LogReader()
        self._label = f"[{rank}] ".encode() if command.follower and not command.log_dir else b""
        self._writing = threading.Lock()
        self._pid = 0
        self._stop_requests = 0
        self._drain: Drain | None = None
        self._kill_at = math.inf
        self._sent: set[int] = set()
        self._folders: set[Path] = set()
        self._parent = os.getppid()

    def run(self) -> int:
        """Run the server until the rank ends; return the agent's exit code."""
        process_tree.adopt_orphans()
        awake = process_tree.wake_on((*SIGNALS, signal.SIGCHLD))
        process_tree.signal_on_parents_death(PARENT_DIED)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        with contextlib.ExitStack() as stack:
            outputs = (1, 2)
            if self._command.log_dir:
                path = Path(self._command.log_dir) / f"rank{self._rank}.log"
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    log = stack.enter_context(path.open("ab", buffering=0))
                except OSError as error:
                    return self._ended(self._end(f"--log-dir: {path}: {error.strerror}", 1))
                outputs = (log.fileno(), log.fileno())
            if warning := process_tree.raise_stack_limit():
                self._report(RankEvent(self._rank, "warning", text=warning))
            env = dict(pair.split("=", 1) for pair in self._command.env)
            started = time.time() - 0.1  # files have a coarser clock
            try:
                server, threads = process_tree.start(
                    self._argv,
                    {**os.environ, **env},
                    lambda source, number: self._copy(source, outputs[number]),
                )
            except OSError as error:
                problem = f"{self._argv[0]} cannot be run: {error.strerror}"
                return self._ended(self._end(problem, 126))
            self._pid = server.pid
            shared_memory.remove_with(self._prefix, stream_folder(server.pid))
            self._report(RankEvent(self._rank, "started"))
            end = self._watch(awake, started)
            # Python restores the default signal handlers while it exits, and an order to end may
            # reach a rank that has just drained.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            self._folders |= process_tree.kill_all_beneath(os.getpid())
            server.returncode = 0  # already collected
            for thread in threads:  # the last output lines explain the end
                thread.join(timeout=2.0)
            clean_up(self._command, self._rank, self._folders, self._parent)
            return self._ended(end)

    def _watch(self, awake: int, since: float) -> int | RankEvent:
        """Wait until the server has ended (its return code) or must end (the event to report)."""
        stubs = StubWatch(self._pid)
        private = True
        # Sent twice: readiness depends on it, and mpirun may interleave the first copy.
        again_at = time.monotonic() + 1.0
        while True:
            dead = process_tree.reap(self._folders)
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
                self._report(RankEvent(self._rank, "started"))
            if self._log.unloading and signal.SIGTERM in self._sent and not stubs.any_running:
                self._kill_at = min(self._kill_at, now + _UNLOADED_GRACE)
            if not stubs.stubs and stubs.server != self._serving_pid():
                stubs = StubWatch(self._serving_pid())
            if (problem := stubs.look(now)) and signal.SIGTERM not in self._sent:
                return self._end(problem, 1)
            if private and (warning := shared_memory.make_private(self._prefix)):
                private = False
                self._report(RankEvent(self._rank, "warning", text=warning))
            if stubs.stubs and since:
                shared_memory.remove_environments(self._prefix, since)
                since = 0.0
            select.select([awake], [], [], _LOOK_EVERY)
            numbers = b""
            with contextlib.suppress(BlockingIOError):
                numbers = os.read(awake, 4096)
            for number in numbers:
                if (end := self._on_signal(number)) is not None:
                    return end

    def _on_signal(self, number: int) -> RankEvent | None:
        """Handle a signal; return an event if the rank must end at once."""
        if number in (signal.SIGUSR1, signal.SIGINT):
            self._stop_requests += 1
            if self._stop_requests == 1 and self._rank == 0:
                folder = stream_folder(self._serving_pid())
                self._drain = Drain(folder, time.monotonic(), self._command.drain)
            elif self._stop_requests > 1:
                self._drain = None
                self._signal(signal.SIGTERM)
                self._kill_at = min(self._kill_at, time.monotonic() + END_GRACE)
        elif number == signal.SIGTERM:
            return self._end("killed, because its MPI ended it (SIGTERM)", 143)
        elif number == PARENT_DIED and os.getppid() != self._parent:
            return self._end("killed, because its parent process has ended", 143)
        return None

    def _signal(self, number: int) -> None:
        self._sent.add(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._serving_pid(), number)

    def _serving_pid(self) -> int:
        """The process id of tritonserver, also if a wrapper (trtllm-llmapi-launch) started it."""
        if Path(self._argv[0]).name == "tritonserver":
            return self._pid
        for pid in process_tree.descendants(self._pid):
            if process_tree.runs(pid, "tritonserver"):
                return pid
        return self._pid

    def _copy(self, source: int, target: int) -> None:
        def take(lines: bytes) -> None:
            for model in self._log.feed(lines, source):
                self._report(RankEvent(self._rank, "loaded", text=model))
            if self._label:
                lines = b"".join(self._label + line for line in lines.splitlines(keepends=True))
            with self._writing:
                write_all(target, lines)

        # A labelled line must be complete: the label of its second half would be inside the line.
        copy_output(source, take, None if self._label else 0.05)

    def _end(self, text: str, code: int) -> RankEvent:
        return RankEvent(self._rank, "ended", text=text, code=code, external=code == 143)

    def _ended(self, end: int | RankEvent) -> int:
        """Report the end of the rank; return the agent's exit code."""
        if isinstance(end, int):
            clean = end == 0 or -end in self._sent or self._log.drained
            if self._stop_requests and clean:
                end = RankEvent(self._rank, "ended")
            else:
                how = signal.Signals(-end).name if end < 0 else f"exit code {end}"
                code = 128 - end if end < 0 else end or 1
                text = self._log.reason or ""
                end = RankEvent(self._rank, "ended", text=text, code=code, how=how)
        if end.code and not end.external:
            tail = "\n".join(line[:_LONGEST_TAIL] for line in self._log.tail)
            end = dataclasses.replace(end, tail=tail)
        self._report(end)
        if self._command.follower:
            self._report(end)  # mpirun may interleave the first copy
        return end.code

    def _report(self, event: RankEvent) -> None:
        """Write an event to standard error. Best effort: a missing reader must not block us."""
        here = dataclasses.replace(event, host=socket.gethostname(), pid=self._serving_pid())
        line = here.to_line(self._command.mark)
        if not self._writing.acquire(timeout=2.0):
            return
        try:
            # mpirun forwards what it reads, at most 4 KB at once, and may insert another rank's
            # output after that. A pipe that was empty before the write delivers the line whole.
            deadline = time.monotonic() + 1.0
            while _unread(2) and time.monotonic() < deadline:
                time.sleep(0.005)
            if select.select([], [2], [], 2.0)[1]:
                with contextlib.suppress(OSError):
                    os.write(2, line)
        finally:
            self._writing.release()


def _unread(pipe: int) -> int:
    """Bytes in the pipe; 0 if it is a file or a terminal."""
    with contextlib.suppress(OSError):
        return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0])
    return 0


def _rank_of(command: RankCommand) -> int:
    if not command.rank_variable:
        return 0
    value = os.environ.get(command.rank_variable, "")
    if not value.isdigit():
        sys.stderr.write(
            f"error: {command.rank_variable} is {value!r}, but the MPI must set it to the rank; "
            "start with the mpirun of that MPI, or name the right MPI with --mpi\n"
        )
        sys.exit(2)
    return int(value)


def main() -> None:
    command = RankCommand.from_argv(sys.argv[1:])
    rank = _rank_of(command)
    if command.rank_variable:
        fork_worker(command, rank)
    sys.exit(_Agent(command, rank).run())


if __name__ == "__main__":
    main()
