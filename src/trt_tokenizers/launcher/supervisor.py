"""Starts a launch command, announces readiness, forwards signals, ends all ranks and cleans up.

Signal handlers, readers and the prober only queue events. One loop takes them in turn, and
`lifecycle` decides what follows. If the launcher is killed, the kernel kills what it started
(PR_SET_PDEATHSIG), and the rank agents (`rank_agent`) end their servers and clean up.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from trt_tokenizers.errors import LaunchError
from trt_tokenizers.launcher import process_tree, socket_buffers
from trt_tokenizers.launcher.command import LaunchCommand
from trt_tokenizers.launcher.console import Console
from trt_tokenizers.launcher.front_end import FrontEnd
from trt_tokenizers.launcher.lifecycle import Lifecycle, StarvedStubError
from trt_tokenizers.launcher.log_lines import read_explanation
from trt_tokenizers.launcher.mpi import session_environment
from trt_tokenizers.launcher.notify import notify_systemd, write_ready_file
from trt_tokenizers.launcher.rank_protocol import RankEvent
from trt_tokenizers.launcher.readiness import read_readiness
from trt_tokenizers.launcher.server_watch import copy_output, write_all
from trt_tokenizers.launcher.shared_memory import remove_with, sweep
from trt_tokenizers.streams.stream_folder import SHM

_PROBE_EVERY = 0.25  # seconds, until ready
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: An event: the loop calls it with the current time.
_Event = Callable[[float], None]


def supervise(
    command: LaunchCommand,
    *,
    ready_timeout: float,
    console: Console,
    log_file: Path | None = None,
    ready_file: Path | None = None,
    front_end: FrontEnd | None = None,
    when_ready: Sequence[str] = (),
) -> None:
    """Run *command* until it ends. Call it in the main thread, which handles the signals.

    Args:
        ready_timeout: seconds for all models to load; 0 means no limit.
        console: shows what happens.
        log_file: the servers' output is appended to it instead of going to stdout and stderr.
        ready_file: JSON of the addresses; it exists while the server is ready.
        front_end: runs beside the ranks; None for none.
        when_ready: more lines, shown once the server is ready.

    Raises:
        LaunchError: anything but a clean stop after a signal.
    """
    if ready_file is not None and not ready_file.absolute().parent.is_dir():
        raise LaunchError(f"--ready-file {ready_file}: its folder does not exist; create it first")
    with contextlib.ExitStack() as stack:
        outputs, before = (1, 2), 0
        if log_file is not None:
            try:
                log = stack.enter_context(open(log_file, "ab", buffering=0, opener=_opener))
            except OSError as error:
                raise LaunchError(f"--log-file {log_file}: {error.strerror}") from None
            outputs, before = (log.fileno(), log.fileno()), os.fstat(log.fileno()).st_size
        new = partial(
            _Supervisor, command, outputs, console, ready_file, ready_timeout,
            front_end=front_end, when_ready=when_ready,
        )  # fmt: skip
        launch = new()
        try:
            try:
                launch.run()
            except StarvedStubError as error:
                console.say(
                    f"{error}; a Python process got no processor for a second; starting once more"
                )
                launch = new()
                launch.run()
        except LaunchError:
            if log_file is not None and log_file.is_file():
                if not launch.explained:
                    _show_tail(console, "the log", read_explanation(log_file, before))
                console.say(f"the whole log is in {log_file}")
            raise


def _opener(path: str, flags: int) -> int:
    """Open a file without waiting: a pipe without a reader is an error."""
    file = os.open(path, flags | os.O_NONBLOCK, 0o666)
    os.set_blocking(file, True)
    return file


def _show_tail(console: Console, what: str, lines: Sequence[str]) -> None:
    if lines:
        console.say(f"the last lines of {what}:")
        for line in lines:
            console.say(f"  {line}")


class _Supervisor:
    """One launch: carries out the actions of its `Lifecycle` and runs the threads that listen.

    Attributes:
        explained: a failure needs no more explanation.
    """

    def __init__(
        self,
        command: LaunchCommand,
        outputs: tuple[int, int],
        console: Console,
        ready_file: Path | None,
        ready_timeout: float,
        *,
        front_end: FrontEnd | None,
        when_ready: Sequence[str],
    ) -> None:
        self._command = command
        self._outputs = outputs
        self._console = console
        self._when_ready = when_ready
        self.explained = False
        self._ready_file = ready_file.absolute() if ready_file else None
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._life = Lifecycle(
            self, time.monotonic(), ready_timeout, command.ranks.drain, command.world_size
        )
        self._front_end = front_end
        if command.mpi:
            self._life.starter = Path(command.mpi[0]).name
        self._over = threading.Event()
        self._leader: RankEvent | None = None

    def run(self) -> None:
        """Start, loop, clean up.

        Raises:
            LaunchError: as in `supervise`.
        """
        with self._recorded_signals():
            try:
                threads = self._start()
                while not self._over.is_set():
                    self._take_event()
                if self._front_end is not None:
                    self._front_end.join()
            finally:
                self._over.set()
                folders = process_tree.kill_all_beneath(os.getpid())
                sweep(self._command.ranks.launch_prefix, folders)
            for thread in threads:  # the last output lines explain the end
                thread.join(timeout=2.0)
            with contextlib.suppress(queue.Empty):
                while True:
                    self._events.get_nowait()(time.monotonic())
        self._life.on_ended(self._process.returncode)

    def _take_event(self) -> None:
        deadline = self._life.deadline
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            event = self._events.get(timeout=wait)
        except queue.Empty:
            event = self._life.on_deadline
        event(time.monotonic())

    def _start(self) -> list[threading.Thread]:
        """Start the command and the threads.

        Returns:
            The threads that end with the command's output.
        """
        prefix, argv = self._command.ranks.launch_prefix, self._command.command
        if self._ready_file is not None:
            remove_with(prefix, self._ready_file)
        process_tree.adopt_orphans()
        env = {**session_environment(SHM / f"{prefix}mpi"), **os.environ}
        try:
            self._process, readers = process_tree.start(argv, env, self._read_output)
        except OSError as error:
            raise LaunchError(f"{argv[0]} cannot be run: {error.strerror}", 126) from None
        for listen in (self._wait, self._probe):
            threading.Thread(target=listen, daemon=True).start()
        if self._front_end is not None:
            self._front_end.start(self._outputs, self._on_front_end)
        return readers

    # LaunchActions, which the lifecycle calls.

    def request_stop(self) -> None:
        self._process.send_signal(signal.SIGUSR1)
        if self._front_end is not None:
            self._front_end.drain()

    def terminate(self) -> None:
        self._process.terminate()
        if self._front_end is not None:
            self._front_end.kill()

    def kill(self) -> None:
        self._process.kill()  # `run` then kills everything else

    def say(self, line: str) -> None:
        notify_systemd(f"STATUS={line}")
        self._console.say(line)

    def announce(self, models: tuple[str, ...]) -> None:
        command = self._command
        model = "ensemble" if "ensemble" in models else models[0] if len(models) == 1 else "MODEL"
        ready = {
            "http": command.http_url,
            "grpc": command.grpc_address,
            "metrics": command.metrics_url,
        }
        self.say("ready")
        if self._front_end is not None:
            ready["openai"] = self._front_end.url
        self.say(f"  HTTP     {ready['http']}/v2/models/{model}/generate")
        self.say(f"  gRPC     {ready['grpc']}")
        if self._front_end is not None:
            self.say(f"  OpenAI   {ready['openai']}")
        self.say(f"  metrics  {ready['metrics']}")
        for line in self._when_ready:
            self._console.show(line)
        notify_systemd("READY=1", f"STATUS=serving at {ready['http']}")
        if self._ready_file is not None:
            try:
                write_ready_file(self._ready_file, {**ready, "models": models, "pid": os.getpid()})
            except OSError as error:
                reason = f"--ready-file {self._ready_file}: {error.strerror}"
                self._events.put(partial(self._life.on_failure, reason))

    def stopping(self) -> None:
        notify_systemd("STOPPING=1")
        self._console.end_loading()
        if self._ready_file is not None:
            with contextlib.suppress(OSError):
                self._ready_file.unlink(missing_ok=True)

    def show_tail(self, end: RankEvent) -> None:
        in_file = self._outputs != (1, 2) or self._command.ranks.log_dir
        # With one server on the terminal, the lines are there already.
        if end.tail and (in_file or self._command.world_size > 1):
            _show_tail(self._console, f"rank {end.rank}", end.tail.splitlines())
            self.explained = True

    # The listeners. All but the signal handlers run in threads. They only queue events.

    @contextlib.contextmanager
    def _recorded_signals(self) -> Iterator[None]:
        old = {}
        for number in _STOP_SIGNALS:
            # An ignored SIGHUP comes from nohup, so it stays ignored. An ignored SIGINT only comes
            # from a shell script that starts a background job.
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
            lines = list(map(self._take_event_line, piece.splitlines(keepends=True)))
            write_all(self._outputs[output], b"".join(lines))
            for line in lines:
                self._console.read(line)

        copy_output(source, take, 0.05)

    def _take_event_line(self, line: bytes) -> bytes:
        """Queue the rank event in *line*, if any; return the server's output in it."""
        text, event = RankEvent.find(line, self._command.ranks.mark)
        if event is not None:
            if event.event == "started" and event.rank == 0:
                self._leader = event
            self._events.put(partial(self._life.on_rank_event, event))
        return text

    def _on_front_end(self, how: str) -> None:
        reason = f"the OpenAI front end ended ({how})"
        self._events.put(partial(self._life.on_failure, reason))

    def _wait(self) -> None:
        self._process.wait()
        self._events.put(lambda _: self._over.set())

    def _probe(self) -> None:
        while not self._over.wait(_PROBE_EVERY):
            self._console.tick(time.monotonic() - self._life.started)
            seen = read_readiness(self._command.http_url)
            for model, reason in seen.failed:
                failure = f"model {model!r} is not available: {reason}"
                self._events.put(partial(self._life.on_failure, failure))
            if seen.ready and (self._front_end is None or self._front_end.listens()):
                leader = self._leader
                local = leader is not None and leader.host == socket.gethostname()
                if leader and local and (warning := socket_buffers.widen(leader.pid)):
                    self.say(f"warning: {warning}")
                self._events.put(partial(self._life.on_ready, seen.models))
                return
