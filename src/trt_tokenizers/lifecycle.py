"""What a launch does next: a pure state machine over loading, serving and stopping.

It has no clock, no process and no file: events and times are handed in, and what follows goes to
`Hands`. `trt_tokenizers.supervise` connects it with the world.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass, field
from typing import Protocol

from trt_tokenizers.errors import LaunchError

#: Seconds beyond the server's own exit timeout before it is killed.
GRACE = 5.0
#: Seconds that a server gets to stop once it has failed: one with a dead stub cannot stop at all.
FAILED_GRACE = 5.0


class Hands(Protocol):
    """What `Lifecycle` can do."""

    def signal(self, number: int) -> None:
        """Send a signal to the server."""

    def kill(self) -> None:
        """Kill the server and everything beneath it."""

    def announce(self, models: tuple[str, ...]) -> None:
        """Tell the world that the server is ready."""

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
        deadline: call `on_deadline` at this time; None means never.
    """

    hands: Hands
    started: float
    ready_timeout: float
    exit_timeout: float
    deadline: float | None = field(init=False)
    _phase: _Phase = field(default=_Phase.LOADING, init=False)
    _asked: int | None = field(default=None, init=False)
    _sent: set[int] = field(default_factory=set, init=False)
    _failure: str | None = field(default=None, init=False)
    _killed: str | None = field(default=None, init=False)
    _models: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.deadline = self.started + self.ready_timeout if self.ready_timeout else None

    @property
    def stopping(self) -> bool:
        return self._phase is _Phase.STOPPING

    def on_loaded(self, model: str, now: float) -> None:
        if self._phase is _Phase.LOADING and model not in self._models:
            self._models.add(model)
            self.hands.say(f"model {model} is ready ({now - self.started:.1f} s)")

    def on_ready(self, models: tuple[str, ...], now: float) -> None:
        if self._phase is _Phase.LOADING:
            for model in models:
                self.on_loaded(model, now)
            self._phase, self.deadline = _Phase.SERVING, None
            self.hands.announce(models)

    def on_signal(self, number: int, now: float) -> None:
        name = signal.Signals(number).name
        if self._asked is not None or self._failure is not None:
            self._kill(f"killed on a second signal ({name})")
            return
        self._asked = number
        self.hands.say(
            f"{name}: stopping, {self.exit_timeout:g} s for running requests; "
            "a second signal ends at once"
        )
        self._stop(number, now + self.exit_timeout + GRACE)

    def on_failure(self, reason: str, now: float) -> None:
        if self._phase is not _Phase.STOPPING:
            self._failure = reason
            self.hands.say(f"stopping: {reason}")
            self._stop(signal.SIGTERM, now + FAILED_GRACE)

    def on_deadline(self, now: float) -> None:
        if self._phase is _Phase.LOADING:
            self.on_failure(
                f"not ready within --ready-timeout {self.ready_timeout:g} s; ready so far: "
                + (", ".join(sorted(self._models)) or "no models"),
                now,
            )
        else:
            self._kill("killed, as it did not end in time")

    def _stop(self, number: int, deadline: float) -> None:
        # SIGHUP would only end a server before it has its handlers; both others drain it.
        number = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        self._phase, self.deadline = _Phase.STOPPING, deadline
        self._sent.add(number)
        self.hands.signal(number)

    def _kill(self, why: str) -> None:
        if self._killed is None:
            self._killed, self.deadline = why, None
            self.hands.kill()

    def on_ended(self, code: int, reason: str | None) -> None:
        """The server has ended with *code*, negative if by a signal; *reason* is what it said.

        Raises:
            LaunchError: unless a stop was asked for and all ended by itself.
        """
        if self._failure is not None:
            raise LaunchError(self._failure)
        exit_code = 128 - code if code < 0 else code
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        said = f": {reason}" if reason else ""
        if self._killed is not None:
            raise LaunchError(f"tritonserver was {self._killed}", exit_code)
        if self._asked is None:
            when = "before it was ready" if self._phase is _Phase.LOADING else "by itself"
            raise LaunchError(f"tritonserver ended {when} ({how}){said}", exit_code)
        # A server that still loads has no handler yet and dies of the very signal we sent.
        if code != 0 and -code not in self._sent:
            raise LaunchError(f"tritonserver did not stop clean ({how}){said}", exit_code)
