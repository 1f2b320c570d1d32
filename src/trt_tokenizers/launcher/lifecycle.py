"""Decides what a launch does next: a state machine over loading, serving and stopping.

Pure: it has no clock, process or file. It receives events with their times and calls
`LaunchActions`. `supervisor` connects it to real processes.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass, field
from typing import Protocol

from trt_tokenizers.errors import LaunchError
from trt_tokenizers.launcher.rank_protocol import RankEvent

#: Seconds after Triton's own exit timeout until everything is killed.
GRACE = 5.0
#: Seconds that everything gets to end after a failure.
FAILED_GRACE = 5.0
#: Seconds that the other ranks get after rank 0 has ended; their agents give a server less.
FOLLOWERS_GRACE = 10.0


class StarvedStubError(LaunchError):
    """The server aborted while it loaded, because a stub got no processor for about a second.

    Triton gives up such a stub and frees the memory that it still reads. Another start may succeed.
    """


class LaunchActions(Protocol):
    """What `Lifecycle` can do."""

    def request_stop(self) -> None:
        """Send the stop order to all ranks: the first means drain, every further one means end."""

    def terminate(self) -> None:
        """Make every rank kill its server, on all hosts."""

    def kill(self) -> None:
        """Kill everything on this host; MPI's daemons on other hosts then end their ranks."""

    def announce(self, models: tuple[str, ...]) -> None:
        """Announce that the server is ready."""

    def stopping(self) -> None:
        """Announce that the server is no longer ready."""

    def show_tail(self, end: RankEvent) -> None:
        """Show the last output lines of the rank that ended."""

    def say(self, line: str) -> None:
        """Print one line for the user."""


class _Phase(enum.Enum):
    """The values say in messages when something ended."""

    LOADING = "before it was ready"
    SERVING = "by itself"
    STOPPING = "while it was stopping"


@dataclass
class Lifecycle:
    """The state of one launch. All times are seconds of one monotonic clock.

    Attributes:
        starter: name, for messages, of the program that starts the ranks.
        deadline: call `on_deadline` at this time; None means never.
    """

    actions: LaunchActions
    started: float
    ready_timeout: float
    exit_timeout: float
    world_size: int = 1
    starter: str = "the rank agent"
    deadline: float | None = field(init=False)
    _phase: _Phase = field(default=_Phase.LOADING, init=False)
    _stop_requested: bool = field(default=False, init=False)
    _drained: bool = field(default=False, init=False)
    _rank_killed: bool = field(default=False, init=False)  # by a process that is not ours
    _failure: LaunchError | None = field(default=None, init=False)
    _killed: str | None = field(default=None, init=False)  # why we killed everything
    _models: set[str] = field(default_factory=set, init=False)
    _started: set[int] = field(default_factory=set, init=False)
    _ready: tuple[str, ...] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.deadline = self.started + self.ready_timeout if self.ready_timeout else None

    def on_rank_event(self, event: RankEvent, now: float) -> None:
        """Handle an event that a rank's agent reported."""
        if event.event == "started" and event.rank not in self._started:
            self._started.add(event.rank)
            if self.world_size > 1:
                self.actions.say(f"rank {event.rank} is started on {event.host} (pid {event.pid})")
            if self._ready is not None:
                self.on_ready(self._ready, now)
        elif event.event == "loaded":
            # Only rank 0 serves. A follower's engine counts as loaded only when it ends.
            if event.rank == 0:
                self.on_loaded(event.text, now)
        elif event.event == "warning":
            where = f"rank {event.rank} on {event.host}: " if self.world_size > 1 else ""
            self.actions.say(f"warning: {where}{event.text}")
        elif event.event == "ended":
            self._on_rank_ended(event, now)

    def on_loaded(self, model: str, now: float) -> None:
        """Rank 0 has loaded *model*."""
        if self._phase is _Phase.LOADING and model not in self._models:
            self._models.add(model)
            self.actions.say(f"model {model} is ready ({now - self.started:.1f} s)")

    def on_ready(self, models: tuple[str, ...], now: float) -> None:
        """Rank 0 serves *models*; the launch is ready once all ranks have started."""
        self._ready = models
        if self._phase is _Phase.LOADING and self._all_started:
            for model in models:
                self.on_loaded(model, now)
            self._phase = _Phase.SERVING
            if not self._rank_killed:
                self.deadline = None
            self.actions.announce(models)

    def on_signal(self, number: int, now: float) -> None:
        """The launcher got a stop signal: the first stops, the second kills."""
        name = signal.Signals(number).name
        if self._phase is _Phase.STOPPING:
            self._kill(f"killed on a second signal ({name})")
            return
        self._stop_requested = True
        self.actions.say(
            f"{name}: stopping, {self.exit_timeout:g} s for running requests; "
            "a second signal ends at once"
        )
        # Once for the running requests, once for Triton's own wait for idle connections.
        self._stop(now + 2 * self.exit_timeout + GRACE)
        if self._all_started:
            self.actions.request_stop()
        else:
            # The stop order would kill an agent that is still starting. There are no requests yet.
            self._drained = True
            self.actions.terminate()

    def on_failure(self, reason: str, now: float) -> None:
        """Something other than a rank's end has failed."""
        self._fail(LaunchError(reason), now)

    def on_deadline(self, now: float) -> None:
        """`deadline` has passed."""
        if self._rank_killed and self._phase is not _Phase.STOPPING:
            self.on_failure("a rank was ended from outside", now)
        elif self._phase is _Phase.LOADING:
            self.on_failure(
                f"not ready within --ready-timeout {self.ready_timeout:g} s; ready so far: "
                + (", ".join(sorted(self._models)) or "no models"),
                now,
            )
        elif self._drained:
            self.actions.say("what is left did not end in time and is killed; no request was cut")
            self.deadline = None
            self.actions.kill()
        else:
            self._kill("killed, because it did not end in time")

    def on_ended(self, code: int) -> None:
        """Everything has ended.

        Args:
            code: return code of the starter (negative: by that signal).

        Raises:
            StarvedStubError: the launch failed, and starting it once more may succeed.
            LaunchError: unless a stop was requested and the running requests finished.
        """
        if self._failure is not None:
            if self._killed is not None:  # the user does not want another start
                raise LaunchError(str(self._failure), self._failure.exit_code)
            raise self._failure
        if self._killed is not None:
            what = "tritonserver was" if self.world_size == 1 else "the ranks were"
            raise LaunchError(f"{what} {self._killed}", 137)
        # After a drain, the code does not matter: MPI may report the ends of the other ranks.
        if not self._drained:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise LaunchError(
                f"{self.starter} ended {self._phase.value} ({how})",
                128 - code if code < 0 else code,
            )

    def _on_rank_ended(self, event: RankEvent, now: float) -> None:
        if self._drained:
            return
        if event.external:
            # The MPI usually ends the other ranks too. Hydra does not if only one is killed.
            if self._phase is not _Phase.STOPPING and not self._rank_killed:
                self._rank_killed, self.deadline = True, now + FAILED_GRACE
            return
        if event.code:
            again = self._phase is _Phase.LOADING and "lock_exception" in event.text
            kind = StarvedStubError if again else LaunchError
            self._fail(kind(self._message(event), event.code), now, event)
        elif event.rank == 0:
            self._drained = True
            if self.world_size > 1:
                self.deadline = now + FOLLOWERS_GRACE
                self.actions.request_stop()

    @property
    def _all_started(self) -> bool:
        return len(self._started) == self.world_size

    def _message(self, end: RankEvent) -> str:
        who = f"rank {end.rank} on {end.host}" if self.world_size > 1 else ""
        if not end.how:
            return f"{who}: {end.text}" if who else end.text
        what = "did not stop cleanly" if self._stop_requested else f"ended {self._phase.value}"
        reason = f": {end.text}" if end.text else ""
        return f"{who or 'tritonserver'} {what} ({end.how}){reason}"

    def _fail(self, failure: LaunchError, now: float, end: RankEvent | None = None) -> None:
        """Stop everything because of the first failure; later ones are its consequences."""
        if self._failure is not None or self._killed is not None:
            return
        if self._phase is _Phase.STOPPING and end is None:
            return  # a stopping server may fail its readiness checks
        self._failure = failure
        if end is not None:
            self.actions.show_tail(end)
        if end is None or self.world_size > 1:  # otherwise nothing is left to stop
            self.actions.say(f"stopping: {failure}")
        self._stop(now + FAILED_GRACE)
        self.actions.terminate()

    def _stop(self, deadline: float) -> None:
        if self._phase is not _Phase.STOPPING:
            self.actions.stopping()
        self._phase, self.deadline = _Phase.STOPPING, deadline

    def _kill(self, why: str) -> None:
        if self._killed is None:
            self._killed, self.deadline = why, None
            self.actions.kill()
