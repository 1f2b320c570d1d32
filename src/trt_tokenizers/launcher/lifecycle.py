"""What a launch does next: a pure state machine over loading, serving and stopping.

It has no clock, no process and no file: events and times are handed in, and what follows goes to
`LaunchActions`. `trt_tokenizers.launcher.supervisor` connects it with the world.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass, field
from typing import Protocol

from trt_tokenizers.errors import LaunchError
from trt_tokenizers.launcher.rank_protocol import RankEvent

#: Seconds beyond the server's own exit timeout before all is killed.
GRACE = 5.0
#: Seconds that everything gets to end once something failed.
FAILED_GRACE = 5.0
#: Seconds that the other ranks get once rank 0 has ended; more than their agents give a server.
FOLLOWERS_GRACE = 10.0


class LaunchActions(Protocol):
    """What `Lifecycle` can do."""

    def ask(self) -> None:
        """Ask the ranks to stop: once means drain, again means end."""

    def terminate(self) -> None:
        """Have every rank kill its server, on whatever host."""

    def kill(self) -> None:
        """Kill everything on this host; MPI's daemons on others then end theirs."""

    def announce(self, models: tuple[str, ...]) -> None:
        """Tell the world that the server is ready."""

    def stopping(self) -> None:
        """Tell the world that it is ready no more."""

    def show_tail(self, rank: int) -> None:
        """Show the last lines of a rank's server."""

    def say(self, line: str) -> None:
        """One line for the user."""


class _Phase(enum.Enum):
    LOADING = enum.auto()
    SERVING = enum.auto()
    STOPPING = enum.auto()


@dataclass
class Lifecycle:
    """Decides. Times are seconds of one monotonic clock, handed in.

    Attributes:
        starter: what was started to start the ranks, for people.
        deadline: call `on_deadline` at this time; None means never.
    """

    hands: LaunchActions
    started: float
    ready_timeout: float
    exit_timeout: float
    world_size: int = 1
    starter: str = "the rank agent"
    deadline: float | None = field(init=False)
    _phase: _Phase = field(default=_Phase.LOADING, init=False)
    _asked: bool = field(default=False, init=False)
    _drained: bool = field(default=False, init=False)
    _lost: bool = field(default=False, init=False)  # a rank was ended, and not by us
    _failure: LaunchError | None = field(default=None, init=False)
    _killed: str | None = field(default=None, init=False)
    _models: set[str] = field(default_factory=set, init=False)
    _started: set[int] = field(default_factory=set, init=False)
    _ready: tuple[str, ...] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.deadline = self.started + self.ready_timeout if self.ready_timeout else None

    def on_report(self, report: RankEvent, now: float) -> None:
        """A rank's agent said something."""
        if report.event == "started" and report.rank not in self._started:
            self._started.add(report.rank)
            if self.world_size > 1:
                self.hands.say(f"rank {report.rank} is started on {report.host} (pid {report.pid})")
            if self._ready is not None:
                self.on_ready(self._ready, now)
        elif report.event == "loaded":
            # A follower's engine is «loaded» when it ends; only rank 0 serves.
            if report.rank == 0:
                self.on_loaded(report.text, now)
        elif report.event == "ended":
            self._on_rank_ended(report, now)

    def on_loaded(self, model: str, now: float) -> None:
        if self._phase is _Phase.LOADING and model not in self._models:
            self._models.add(model)
            self.hands.say(f"model {model} is ready ({now - self.started:.1f} s)")

    def on_ready(self, models: tuple[str, ...], now: float) -> None:
        self._ready = models
        if self._phase is _Phase.LOADING and self._all_started:
            for model in models:
                self.on_loaded(model, now)
            self._phase = _Phase.SERVING
            if not self._lost:
                self.deadline = None
            self.hands.announce(models)

    def on_signal(self, number: int, now: float) -> None:
        name = signal.Signals(number).name
        if self._phase is _Phase.STOPPING:
            self._kill(f"killed on a second signal ({name})")
            return
        self._asked = True
        self.hands.say(
            f"{name}: stopping, {self.exit_timeout:g} s for running requests; "
            "a second signal ends at once"
        )
        # Once for the running requests, and once for Triton's own wait for idle connections.
        self._stop(now + 2 * self.exit_timeout + GRACE)
        if self._all_started:
            self.hands.ask()
        else:
            # An agent that still starts would die of being asked; and there are no requests yet.
            self._drained = True
            self.hands.terminate()

    def on_failure(self, reason: str, now: float) -> None:
        self._fail(LaunchError(reason), now)

    def on_deadline(self, now: float) -> None:
        if self._lost and self._phase is not _Phase.STOPPING:
            self.on_failure("a rank was ended from outside", now)
        elif self._phase is _Phase.LOADING:
            self.on_failure(
                f"not ready within --ready-timeout {self.ready_timeout:g} s; ready so far: "
                + (", ".join(sorted(self._models)) or "no models"),
                now,
            )
        else:
            self._kill("killed, as it did not end in time")

    def on_ended(self, code: int) -> None:
        """All has ended, with the return *code* of what was started (negative: by that signal).

        Raises:
            LaunchError: unless a stop was asked for and the running requests finished.
        """
        if self._failure is not None:
            raise self._failure
        if self._killed is not None:
            what = "tritonserver was" if self.world_size == 1 else "the ranks were"
            raise LaunchError(f"{what} {self._killed}", 137)
        # What MPI makes of the others' ends is of no account then.
        if not self._drained:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise LaunchError(
                f"{self.starter} ended {self._when} ({how})",
                128 - code if code < 0 else code,
            )

    def _on_rank_ended(self, report: RankEvent, now: float) -> None:
        if self._drained:
            return
        if report.told:
            # Whoever ended it ends the others, or not: Hydra leaves them if one is killed.
            if self._phase is not _Phase.STOPPING and not self._lost:
                self._lost, self.deadline = True, now + FAILED_GRACE
            return
        if report.code:
            self._fail(LaunchError(self._message(report), report.code), now, report.rank)
        elif report.rank == 0:
            self._drained = True
            if self.world_size > 1:
                self.deadline = now + FOLLOWERS_GRACE
                self.hands.ask()

    @property
    def _all_started(self) -> bool:
        return len(self._started) == self.world_size

    def _message(self, end: RankEvent) -> str:
        who = f"rank {end.rank} on {end.host}" if self.world_size > 1 else ""
        if not end.how:
            return f"{who}: {end.text}" if who else end.text
        what = "did not stop clean" if self._asked else f"ended {self._when}"
        said = f": {end.text}" if end.text else ""
        return f"{who or 'tritonserver'} {what} ({end.how}){said}"

    @property
    def _when(self) -> str:
        return {
            _Phase.LOADING: "before it was ready",
            _Phase.SERVING: "by itself",
            _Phase.STOPPING: "while it was stopping",
        }[self._phase]

    def _fail(self, failure: LaunchError, now: float, rank: int | None = None) -> None:
        """The first failure is the one that counts; others follow from it."""
        if self._failure is not None or self._killed is not None:
            return
        if self._phase is _Phase.STOPPING and rank is None:
            return  # a server that stops is not expected to be well
        self._failure = failure
        if rank is not None:
            self.hands.show_tail(rank)
        if rank is None or self.world_size > 1:  # else there is nothing left to stop
            self.hands.say(f"stopping: {failure}")
        self._stop(now + FAILED_GRACE)
        self.hands.terminate()

    def _stop(self, deadline: float) -> None:
        if self._phase is not _Phase.STOPPING:
            self.hands.stopping()
        self._phase, self.deadline = _Phase.STOPPING, deadline

    def _kill(self, why: str) -> None:
        if self._killed is None:
            self._killed, self.deadline = why, None
            self.hands.kill()
