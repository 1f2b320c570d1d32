"""Start a plan's server, say when it is ready, pass signals on, end it, leave nothing behind.

Signal handlers, readers and the prober only record what happened; one loop takes that in turn and
`trt_tokenizers.lifecycle` decides what follows. The guardian (`trt_tokenizers.guard`) sees to it
that nothing survives, not even a SIGKILL of the launcher.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, cast

from trt_tokenizers import guard, httpqueues
from trt_tokenizers.errors import LaunchError
from trt_tokenizers.launch import Plan
from trt_tokenizers.lifecycle import Lifecycle
from trt_tokenizers.watch import LogReader, StubWatch, copy_output, read_readiness

_PROBE_EVERY = 0.25  # seconds, until ready
_LOOK_EVERY = 1.0  # seconds, from then on
_GUARD_WAIT = 15.0  # seconds; more than the guardian waits for what it killed
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Something that happened: called in the loop, with the time.
_Event = Callable[[float], None]


def supervise(
    plan: Plan,
    *,
    ready_timeout: float,
    say: Callable[[str], None],
    log_file: Path | None = None,
    ready_file: Path | None = None,
) -> None:
    """Run *plan* until it ends. To be called in the main thread, which handles the signals.

    Args:
        ready_timeout: seconds for all models to load; 0 waits for ever.
        say: takes one line for the user.
        log_file: the server's output is appended to it, instead of going to stdout and stderr.
        ready_file: JSON of the addresses, there while the server is ready.

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
        run = _Run(plan, outputs, say, ready_file, ready_timeout)
        try:
            run.run()
        except LaunchError:
            if log_file is not None:
                run.say(f"the last lines of {log_file}:")
                for line in run.log.tail:
                    run.say(f"  {line}")
            raise


class _Run:
    """One launch: the hands of its `Lifecycle`, and the threads that listen for it."""

    def __init__(
        self,
        plan: Plan,
        outputs: tuple[int, int],
        say: Callable[[str], None],
        ready_file: Path | None,
        ready_timeout: float,
    ) -> None:
        self.log = LogReader()
        self._plan = plan
        self._rank = plan.ranks[0]
        self._outputs = outputs
        self._say = say
        self._ready_file = ready_file.absolute() if ready_file else None
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._life = Lifecycle(self, time.monotonic(), ready_timeout, plan.exit_timeout)
        self._over = threading.Event()
        self._server_pid: int | None = None
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
                for thread in threads:  # what the server said last explains its end
                    thread.join(timeout=2.0)
        if self._unstartable is not None:
            raise LaunchError(f"{self._rank.argv[0]} cannot be run: {self._unstartable}", 126)
        if self._code is None:
            raise LaunchError("the guardian process of the launch was killed; the server with it")
        self._life.on_ended(self._code, self.log.reason)

    def _take_event(self) -> None:
        deadline = self._life.deadline
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            event = self._events.get(timeout=wait)
        except queue.Empty:
            event = self._life.on_deadline
        event(time.monotonic())

    def _start(self) -> list[threading.Thread]:
        job = guard.Job(
            argv=self._rank.argv,
            env={**os.environ, **self._rank.env},
            shm_prefix=self._rank.shm_prefix,
            remove=(str(self._ready_file),) if self._ready_file else (),
        )
        status, status_end = os.pipe()
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(status_end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(status_end,),
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
        if self._code is None and self._server_pid is not None:
            # It was killed and the kernel has killed the server; its stubs are in the same group.
            # As zombies they stay there until init collects them, hence the deadline.
            deadline = time.monotonic() + 2.0
            with contextlib.suppress(ProcessLookupError):
                while time.monotonic() < deadline:
                    os.killpg(self._server_pid, signal.SIGKILL)
                    time.sleep(0.02)
            leftovers = (str(self._ready_file),) if self._ready_file else ()
            guard.sweep(self._rank.shm_prefix, {self._server_pid}, leftovers)

    # The hands of the lifecycle.

    def signal(self, number: int) -> None:
        self._order(b"signal %d\n" % number)

    def kill(self) -> None:
        self._order(b"kill\n")

    def say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # nobody may be reading any more
            self._say(line)

    def announce(self, models: tuple[str, ...]) -> None:
        plan = self._plan
        model = "ensemble" if "ensemble" in models else models[0] if len(models) == 1 else "MODEL"
        self.say("ready")
        self.say(f"  HTTP     {plan.http_url}/v2/models/{model}/generate")
        self.say(f"  gRPC     {plan.grpc_address}")
        self.say(f"  metrics  {plan.metrics_url}")
        if self._ready_file is not None:
            addresses = {
                "http": plan.http_url,
                "grpc": plan.grpc_address,
                "metrics": plan.metrics_url,
                "models": models,
                "pid": os.getpid(),
            }
            scratch = self._ready_file.with_name(f".{self._ready_file.name}.{os.getpid()}")
            try:
                scratch.write_text(json.dumps(addresses) + "\n")
                scratch.replace(self._ready_file)
            except OSError as error:
                reason = f"--ready-file {self._ready_file}: {error.strerror}"
                self._events.put(partial(self._life.on_failure, reason))

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
        def seen(piece: bytes) -> None:
            for model in self.log.feed(piece, output):
                self._events.put(partial(self._life.on_loaded, model))

        copy_output(source, self._outputs[output], seen)

    def _read_status(self, status: int) -> None:
        with os.fdopen(status) as lines:
            for line in lines:
                word, _, value = line.rstrip("\n").partition(" ")
                if word == "started":
                    self._server_pid = int(value)
                    threading.Thread(target=self._probe, args=(int(value),), daemon=True).start()
                elif word == "failed":
                    self._unstartable = value
                elif word == "ended":
                    self._code = int(value)
        self._events.put(lambda _: self._over.set())

    def _probe(self, server_pid: int) -> None:
        stubs = StubWatch(server_pid)
        ready = False
        while not self._over.wait(_LOOK_EVERY if ready else _PROBE_EVERY):
            died = stubs.look()
            if ready:
                if died:
                    self._events.put(partial(self._life.on_failure, died))
                continue
            seen = read_readiness(self._plan.http_url)
            ready = seen.ready
            if ready:
                if mend := httpqueues.widen(server_pid):
                    self.say(f"warning: {mend}")
                self._events.put(partial(self._life.on_ready, seen.models))
            for model, reason in seen.failed:
                failure = f"model {model!r} is not available: {reason}"
                self._events.put(partial(self._life.on_failure, failure))
