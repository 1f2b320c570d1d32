"""What a launch decides, with a clock and hands of its own."""

from __future__ import annotations

import signal

import pytest

from trt_tokenizers.errors import LaunchError
from trt_tokenizers.lifecycle import FAILED_GRACE, GRACE, Lifecycle


class Recorder:
    """Hands that write down what they are told to do."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.said: list[str] = []

    def signal(self, number: int) -> None:
        self.done.append(signal.Signals(number).name)

    def kill(self) -> None:
        self.done.append("kill")

    def announce(self, models: tuple[str, ...]) -> None:
        self.done.append("ready " + " ".join(models))

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def hands() -> Recorder:
    return Recorder()


@pytest.fixture
def life(hands: Recorder) -> Lifecycle:
    return Lifecycle(hands, started=100.0, ready_timeout=60.0, exit_timeout=20.0)


def test_ready_is_announced_once_and_has_no_deadline(life: Lifecycle, hands: Recorder) -> None:
    assert life.deadline == 160.0
    life.on_loaded("a", 101.0)
    life.on_loaded("a", 102.0)
    life.on_ready(("a", "b"), 103.5)
    life.on_ready(("a", "b"), 104.0)
    assert hands.said == ["model a is ready (1.0 s)", "model b is ready (3.5 s)"]
    assert hands.done == ["ready a b"]
    assert life.deadline is None


def test_no_ready_timeout(hands: Recorder) -> None:
    assert Lifecycle(hands, started=1.0, ready_timeout=0, exit_timeout=1).deadline is None


def test_one_deadline_then_kill(life: Lifecycle, hands: Recorder) -> None:
    life.on_ready((), 101.0)
    life.on_signal(signal.SIGTERM, 200.0)
    assert life.deadline == 200.0 + 20.0 + GRACE
    life.on_deadline(life.deadline)
    assert hands.done == ["ready ", "SIGTERM", "kill"]
    assert life.deadline is None
    with pytest.raises(LaunchError, match="killed, as it did not end in time") as caught:
        life.on_ended(-signal.SIGKILL, None)
    assert caught.value.exit_code == 137


def test_the_second_signal_kills_and_a_third_does_nothing(life: Lifecycle, hands: Recorder) -> None:
    for _ in range(3):
        life.on_signal(signal.SIGINT, 101.0)
    assert hands.done == ["SIGINT", "kill"]


def test_a_hangup_drains_too(life: Lifecycle, hands: Recorder) -> None:
    life.on_signal(signal.SIGHUP, 101.0)
    assert hands.done == ["SIGTERM"]


def test_not_ready_in_time(life: Lifecycle, hands: Recorder) -> None:
    life.on_loaded("a", 101.0)
    life.on_deadline(160.0)
    assert hands.done == ["SIGTERM"]
    assert life.deadline == 160.0 + FAILED_GRACE
    with pytest.raises(LaunchError, match=r"not ready within --ready-timeout 60 s; .*: a$"):
        life.on_ended(0, None)


def test_the_first_failure_counts(life: Lifecycle, hands: Recorder) -> None:
    life.on_failure("first", 101.0)
    life.on_failure("second", 102.0)
    life.on_deadline(106.0)
    assert hands.done == ["SIGTERM", "kill"]
    with pytest.raises(LaunchError, match="first") as caught:
        life.on_ended(-signal.SIGKILL, "something else")
    assert caught.value.exit_code == 1


def test_a_failure_while_stopping_does_not_hide_that_a_stop_was_asked(life: Lifecycle) -> None:
    life.on_signal(signal.SIGTERM, 101.0)
    life.on_failure("a stub died", 102.0)
    life.on_ended(0, None)


def test_ready_after_a_stop_was_asked_is_not_announced(life: Lifecycle, hands: Recorder) -> None:
    life.on_signal(signal.SIGTERM, 101.0)
    life.on_ready(("a",), 102.0)
    assert hands.done == ["SIGTERM"]


@pytest.mark.parametrize("code", [0, -signal.SIGTERM])
def test_an_asked_stop_is_clean(life: Lifecycle, code: int) -> None:
    life.on_signal(signal.SIGTERM, 101.0)
    life.on_ended(code, None)


@pytest.mark.parametrize(
    ("asked", "code", "reason", "message", "exit_code"),
    [
        (True, 1, "Exit timeout expired.", "did not stop clean (exit code 1): Exit timeout", 1),
        (True, -signal.SIGSEGV, None, "did not stop clean (SIGSEGV)", 139),
        (False, 3, "no port", "ended before it was ready (exit code 3): no port", 3),
        (False, -signal.SIGKILL, None, "ended before it was ready (SIGKILL)", 137),
        (False, 0, None, "ended before it was ready (exit code 0)", 1),
    ],
)
def test_other_ends_are_errors(
    life: Lifecycle, asked: bool, code: int, reason: str | None, message: str, exit_code: int
) -> None:
    if asked:
        life.on_signal(signal.SIGTERM, 101.0)
    with pytest.raises(LaunchError) as caught:
        life.on_ended(code, reason)
    assert message in str(caught.value)
    assert caught.value.exit_code == exit_code


def test_a_server_that_ends_by_itself_after_ready(life: Lifecycle) -> None:
    life.on_ready((), 101.0)
    with pytest.raises(LaunchError, match="ended by itself"):
        life.on_ended(0, None)
