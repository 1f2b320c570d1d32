"""Start a plan's ranks, say when they are ready, pass signals on, end them, leave nothing behind.

Signal handlers, readers and the prober only record what happened; one loop takes that in turn and
`lifecycle` decides what follows. The guardian (`guardian`) sees to it
that nothing survives on this host, not even a SIGKILL of the launcher; the rank agents
(`rank_agent`) see to it on theirs.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, cast

from trt_tokenizers.errors import LaunchError
from trt_tokenizers.launcher import guardian, socket_buffers
from trt_tokenizers.launcher.command import LaunchCommand
from trt_tokenizers.launcher.lifecycle import Lifecycle
from trt_tokenizers.launcher.mpi import session_environment
from trt_tokenizers.launcher.notify import notify_systemd, write_ready_file
from trt_tokenizers.launcher.rank_protocol import RankEvent
from trt_tokenizers.launcher.readiness import read_readiness
from trt_tokenizers.launcher.server_watch import copy_output, write_all
from trt_tokenizers.streams.stream_folder import SHM

_PROBE_EVERY = 0.25  # seconds, until ready
_GUARD_WAIT = 15.0  # seconds; more than the guardian waits for what it killed
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TAIL = 20  # lines
_OF_RANK = re.compile(rb"\[(\d+)\] ")

#: Something that happened: called in the loop, with the time.
_Event = Callable[[float], None]


def supervise(
    plan: LaunchCommand,
    *,
    ready_timeout: float,
    say: Callable[[str], None],
    log_file: Path | None = None,
    ready_file: Path | None = None,
    lock: int | None = None,
) -> None:
    """Run *plan* until it ends. To be called in the main thread, which handles the signals.

    Args:
        ready_timeout: seconds for all models to load; 0 waits for ever.
        say: takes one line for the user.
        log_file: the servers' output is appended to it, instead of going to stdout and stderr.
        ready_file: JSON of the addresses, there while the server is ready.
        lock: a file descriptor that stays open while anything of the launch is alive.

    Raises:
        LaunchError: anything but a clean stop that a signal asked for.
    """
    if ready_file is not None and not ready_file.absolute().parent.is_dir():
        raise LaunchError(f"--ready-file {ready_file}: its folder is not there; make it first")
    with contextlib.ExitStack() as stack:
        outputs = (1, 2)
        if log_file is not None:
            try:
                log = stack.enter_context(log_file.open("ab", buffering=0))
            except OSError as error:
                raise LaunchError(f"--log-file {log_file}: {error.strerror}") from None
            outputs = (log.fileno(), log.fileno())
        run = _Run(
            plan, outputs, say, ready_file=ready_file, ready_timeout=ready_timeout, lock=lock
        )
        run.run()


class _Run:
    """One launch: the hands of its `Lifecycle`, and the threads that listen for it."""

    def __init__(
        self,
        plan: LaunchCommand,
        outputs: tuple[int, int],
        say: Callable[[str], None],
        *,
        ready_file: Path | None,
        ready_timeout: float,
        lock: int | None,
    ) -> None:
        self._plan = plan
        self._outputs = outputs
        self._say = say
        self._ready_file = ready_file.absolute() if ready_file else None
        self._lock = lock
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        starter = Path(plan.mpi[0]).name if plan.mpi else "the rank agent"
        self._life = Lifecycle(
            self, time.monotonic(), ready_timeout, plan.exit_timeout, plan.world_size, starter
        )
        self._over = threading.Event()
        self._tails: dict[int, collections.deque[str]] = {}
        self._leader: RankEvent | None = None
        self._unstartable: str | None = None
        self._code: int | None = None

    def run(self) -> None:
        """Start, loop, end.

        Raises:
            LaunchError: as in `supervise`.
        """
        with self._recorded_signals():
            threads = self._start()
            try:
                while not self._over.is_set():
                    self._take_event()
            finally:
                self._over.set()
                # The guardian kills what is left when this pipe closes.
                with contextlib.suppress(OSError):
                    self._orders.close()
                self._wait_for_guardian()
                for thread in threads:  # what was said last explains the end
                    thread.join(timeout=2.0)
            with contextlib.suppress(queue.Empty):
                while True:
                    self._events.get_nowait()(time.monotonic())
        if self._unstartable is not None:
            raise LaunchError(f"{self._plan.command[0]} cannot be run: {self._unstartable}", 126)
        if self._code is None:
            raise LaunchError("the guardian process of the launch was killed; the server with it")
        self._life.on_ended(self._code)

    def _take_event(self) -> None:
        deadline = self._life.deadline
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            event = self._events.get(timeout=wait)
        except queue.Empty:
            event = self._life.on_deadline
        event(time.monotonic())

    def _start(self) -> list[threading.Thread]:
        job = guardian.Job(
            argv=self._plan.command,
            env={**session_environment(SHM / f"{self._plan.shm_prefix}mpi"), **os.environ},
            shm_prefix=self._plan.shm_prefix,
            remove=(str(self._ready_file),) if self._ready_file else (),
        )
        status, status_end = os.pipe()
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, str(status_end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(status_end, *([] if self._lock is None else [self._lock])),
            start_new_session=True,
            bufsize=0,
        )
        os.close(status_end)
        streams = (self._guardian.stdin, self._guardian.stdout, self._guardian.stderr)
        orders, stdout, stderr = (cast(IO[bytes], stream) for stream in streams)
        self._orders = orders
        self._order(job.to_line())
        threads = [
            threading.Thread(target=self._read_output, args=(stdout.fileno(), 0)),
            threading.Thread(target=self._read_output, args=(stderr.fileno(), 1)),
            threading.Thread(target=self._read_status, args=(status,)),
        ]
        for thread in threads:
            thread.daemon = True  # a terminal that is stopped must not keep the launcher
            thread.start()
        return threads

    def _wait_for_guardian(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guardian.wait(timeout=_GUARD_WAIT)
        if self._code is None:
            # It was killed, its command with it. The agents notice and clean up.
            prefix = self._plan.shm_prefix
            deadline = time.monotonic() + _GUARD_WAIT
            while (alive := guardian.running_with(prefix)) and time.monotonic() < deadline:
                time.sleep(0.02)
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            guardian.sweep(prefix, set(), (str(self._ready_file),) if self._ready_file else ())

    # The hands of the lifecycle.

    def ask(self) -> None:
        self._order(b"signal %d\n" % signal.SIGUSR1)

    def terminate(self) -> None:
        self._order(b"signal %d\n" % signal.SIGTERM)

    def kill(self) -> None:
        self._order(b"kill\n")

    def say(self, line: str) -> None:
        notify_systemd(f"STATUS={line}")
        with contextlib.suppress(OSError):  # nobody may be reading any more
            self._say(line)

    def announce(self, models: tuple[str, ...]) -> None:
        plan = self._plan
        model = "ensemble" if "ensemble" in models else models[0] if len(models) == 1 else "MODEL"
        self.say("ready")
        self.say(f"  HTTP     {plan.http_url}/v2/models/{model}/generate")
        self.say(f"  gRPC     {plan.grpc_address}")
        self.say(f"  metrics  {plan.metrics_url}")
        notify_systemd("READY=1", f"STATUS=serving at {plan.http_url}")
        if self._ready_file is not None:
            addresses = {
                "http": plan.http_url,
                "grpc": plan.grpc_address,
                "metrics": plan.metrics_url,
                "models": models,
                "pid": os.getpid(),
            }
            try:
                write_ready_file(self._ready_file, addresses)
            except OSError as error:
                reason = f"--ready-file {self._ready_file}: {error.strerror}"
                self._events.put(partial(self._life.on_failure, reason))

    def stopping(self) -> None:
        notify_systemd("STOPPING=1")
        if self._ready_file is not None:
            with contextlib.suppress(OSError):
                self._ready_file.unlink(missing_ok=True)

    def show_tail(self, rank: int) -> None:
        lines = self._tails.get(rank, ())
        # What one server wrote to the terminal stands there already.
        # With --log-dir the agent has sent them.
        elsewhere = self._plan.world_size > 1 or self._logs_to_file
        if lines and elsewhere and not self._plan.ranks.log_dir:
            self.say(f"the last lines of rank {rank}:")
            for line in lines:
                self.say(f"  {line}")

    @property
    def _logs_to_file(self) -> bool:
        return self._outputs != (1, 2)

    def _order(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # a guardian that is gone is noticed by its status
            self._orders.write(line)

    # What listens. Each runs in a thread and only records.

    @contextlib.contextmanager
    def _recorded_signals(self) -> Iterator[None]:
        old = {}
        for number in _STOP_SIGNALS:
            # An ignored SIGHUP is nohup's wish. An ignored SIGINT is only a shell script's way of
            # starting something in the background.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                # SimpleQueue.put may be called from a handler that interrupts a get.
                old[number] = signal.signal(
                    number, lambda n, _: self._events.put(partial(self._life.on_signal, n))
                )
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _read_output(self, source: int, output: int) -> None:
        def take(piece: bytes) -> None:
            rest = b"".join(map(self._without_report, piece.splitlines(keepends=True)))
            write_all(self._outputs[output], rest)

        copy_output(source, take, 0.05)

    def _without_report(self, line: bytes) -> bytes:
        rest, report = RankEvent.find(line, self._plan.ranks.mark)
        if report is not None:
            if report.event == "started" and report.rank == 0:
                self._leader = report
            self._events.put(partial(self._life.on_report, report))
        elif rest.strip():
            number = _OF_RANK.match(rest)
            tail = self._tails.setdefault(
                int(number[1]) if number else 0, collections.deque(maxlen=_TAIL)
            )
            tail.append(rest[number.end() if number else 0 :].decode(errors="replace").rstrip())
        return rest

    def _read_status(self, status: int) -> None:
        with os.fdopen(status) as lines:
            for line in lines:
                word, _, value = line.rstrip("\n").partition(" ")
                if word == "started":
                    threading.Thread(target=self._probe, daemon=True).start()
                elif word == "failed":
                    self._unstartable = value
                elif word == "ended":
                    self._code = int(value)
        self._events.put(lambda _: self._over.set())

    def _probe(self) -> None:
        while not self._over.wait(_PROBE_EVERY):
            seen = read_readiness(self._plan.http_url)
            for model, reason in seen.failed:
                failure = f"model {model!r} is not available: {reason}"
                self._events.put(partial(self._life.on_failure, failure))
            if seen.ready:
                leader = self._leader
                local = leader is not None and leader.host == socket.gethostname()
                if leader and local and (mend := socket_buffers.widen(leader.pid)):
                    self.say(f"warning: {mend}")
                self._events.put(partial(self._life.on_ready, seen.models))
                return
