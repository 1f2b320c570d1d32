"""The decisions of a launch, with a fake clock and recorded actions."""

from __future__ import annotations

import signal

import pytest

from trt_tokenizers.errors import LaunchError
from trt_tokenizers.launcher.lifecycle import (
    FAILED_GRACE,
    FOLLOWERS_GRACE,
    GRACE,
    Lifecycle,
    StarvedStubError,
)
from trt_tokenizers.launcher.rank_protocol import RankEvent


class Recorder:
    """LaunchActions that record their calls."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.said: list[str] = []

    def request_stop(self) -> None:
        self.done.append("request_stop")

    def terminate(self) -> None:
        self.done.append("terminate")

    def kill(self) -> None:
        self.done.append("kill")

    def announce(self, models: tuple[str, ...]) -> None:
        self.done.append("ready " + " ".join(models))

    def stopping(self) -> None:
        self.done.append("stopping")

    def show_tail(self, end: RankEvent) -> None:
        self.done.append(f"tail {end.rank}")

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def actions() -> Recorder:
    return Recorder()


@pytest.fixture
def life(actions: Recorder) -> Lifecycle:
    return started(Lifecycle(actions, started=100.0, ready_timeout=60.0, exit_timeout=20.0))


@pytest.fixture
def ranks(actions: Recorder) -> Lifecycle:
    """A launch of three ranks."""
    return started(
        Lifecycle(actions, 100.0, 60.0, exit_timeout=20.0, world_size=3, starter="mpirun")
    )


def started(life: Lifecycle) -> Lifecycle:
    for rank in range(life.world_size):
        life.on_rank_event(RankEvent(rank, "started", host="gpu1", pid=12), 100.5)
    return life


def ended(rank: int = 0, code: int = 0, how: str = "", text: str = "", **more: bool) -> RankEvent:
    return RankEvent(rank, "ended", host="gpu1", pid=7, code=code, how=how, text=text, **more)


def test_ready_is_announced_once_and_has_no_deadline(life: Lifecycle, actions: Recorder) -> None:
    assert life.deadline == 160.0
    life.on_rank_event(RankEvent(0, "loaded", text="a"), 101.0)
    life.on_rank_event(RankEvent(0, "loaded", text="a"), 102.0)
    life.on_ready(("a", "b"), 103.5)
    life.on_ready(("a", "b"), 104.0)
    assert actions.said == ["model a is ready (1.0 s)", "model b is ready (3.5 s)"]
    assert actions.done == ["ready a b"]
    assert life.deadline is None


def test_models_of_other_ranks_are_not_reported(ranks: Lifecycle, actions: Recorder) -> None:
    ranks.on_rank_event(RankEvent(1, "loaded", text="tensorrt_llm"), 101.0)
    assert actions.said == [f"rank {rank} is started on gpu1 (pid 12)" for rank in range(3)]


def test_ready_waits_for_every_rank(actions: Recorder) -> None:
    life = Lifecycle(actions, 100.0, ready_timeout=60.0, exit_timeout=20.0, world_size=2)
    life.on_rank_event(RankEvent(0, "started"), 101.0)
    life.on_ready(("a",), 102.0)
    assert actions.done == []
    life.on_rank_event(RankEvent(1, "started"), 103.0)
    assert actions.done == ["ready a"]


def test_a_stop_before_every_rank_has_started(actions: Recorder) -> None:
    life = Lifecycle(actions, 100.0, ready_timeout=60.0, exit_timeout=20.0, world_size=2)
    life.on_rank_event(RankEvent(0, "started"), 101.0)
    life.on_signal(signal.SIGTERM, 102.0)
    assert actions.done == ["stopping", "terminate"]
    life.on_rank_event(ended(0, 143, external=True), 102.1)
    life.on_ended(1)


def test_no_ready_timeout(actions: Recorder) -> None:
    assert Lifecycle(actions, started=1.0, ready_timeout=0, exit_timeout=1).deadline is None


def test_one_deadline_then_kill(life: Lifecycle, actions: Recorder) -> None:
    life.on_ready((), 101.0)
    life.on_signal(signal.SIGTERM, 200.0)
    assert life.deadline == 200.0 + 2 * 20.0 + GRACE
    life.on_deadline(life.deadline)
    assert actions.done == ["ready ", "stopping", "request_stop", "kill"]
    assert life.deadline is None
    with pytest.raises(LaunchError, match="killed, because it did not end in time") as caught:
        life.on_ended(-signal.SIGKILL)
    assert caught.value.exit_code == 137


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_second_signal_kills_and_a_third_does_nothing(
    life: Lifecycle, actions: Recorder, number: int
) -> None:
    for _ in range(3):
        life.on_signal(number, 101.0)
    assert actions.done == ["stopping", "request_stop", "kill"]


def test_the_others_end_after_rank_0_has_drained(ranks: Lifecycle, actions: Recorder) -> None:
    ranks.on_signal(signal.SIGTERM, 200.0)
    ranks.on_rank_event(ended(2), 200.5)  # its engine ended by itself
    assert actions.done == ["stopping", "request_stop"]
    ranks.on_rank_event(ended(0), 210.0)
    assert actions.done == ["stopping", "request_stop", "request_stop"]
    assert ranks.deadline == 210.0 + FOLLOWERS_GRACE
    ranks.on_rank_event(ended(1, 137, "SIGKILL"), 215.0)  # ignored after the drain
    ranks.on_ended(1)  # and so is mpirun's code


def test_ranks_that_hang_after_the_drain_are_no_failure(
    ranks: Lifecycle, actions: Recorder
) -> None:
    """GPU processes may take long to end, but no request runs any more."""
    ranks.on_signal(signal.SIGTERM, 200.0)
    ranks.on_rank_event(ended(0), 210.0)
    ranks.on_deadline(210.0 + FOLLOWERS_GRACE)
    assert actions.done[-1] == "kill"
    assert ranks.deadline is None
    ranks.on_ended(-signal.SIGKILL)


LOST = "boost::interprocess::lock_exception"


def test_a_stub_lost_while_loading_allows_another_start(life: Lifecycle) -> None:
    life.on_rank_event(ended(0, 134, "SIGABRT", LOST), 102.0)
    with pytest.raises(StarvedStubError, match=rf"before it was ready \(SIGABRT\): {LOST}"):
        life.on_ended(134)


@pytest.mark.parametrize("when", ["serving", "stopped by the user"])
def test_a_stub_lost_otherwise_allows_none(life: Lifecycle, when: str) -> None:
    if when == "serving":
        life.on_ready((), 101.0)
    life.on_rank_event(ended(0, 134, "SIGABRT", LOST), 102.0)
    if when == "stopped by the user":
        life.on_signal(signal.SIGTERM, 102.1)
    with pytest.raises(LaunchError) as caught:
        life.on_ended(134)
    assert type(caught.value) is LaunchError
    assert caught.value.exit_code == 134


def test_a_warning_is_shown(life: Lifecycle, ranks: Lifecycle, actions: Recorder) -> None:
    for each in (life, ranks):
        each.on_rank_event(RankEvent(0, "warning", host="gpu1", text="x"), 101.0)
    assert actions.said[-2:] == ["warning: x", "warning: rank 0 on gpu1: x"]


def test_a_rank_that_dies_while_rank_0_drains_cuts_requests(
    ranks: Lifecycle, actions: Recorder
) -> None:
    ranks.on_signal(signal.SIGTERM, 200.0)
    ranks.on_rank_event(ended(1, 139, "SIGSEGV"), 201.0)
    assert actions.done == ["stopping", "request_stop", "tail 1", "terminate"]
    with pytest.raises(LaunchError, match=r"rank 1 on gpu1 did not stop cleanly \(SIGSEGV\)") as e:
        ranks.on_ended(139)
    assert e.value.exit_code == 139


def test_the_first_rank_to_fail_counts(ranks: Lifecycle, actions: Recorder) -> None:
    ranks.on_ready((), 101.0)
    ranks.on_rank_event(ended(0, 143, text="killed by its MPI", external=True), 102.0)
    ranks.on_rank_event(ended(2, 137, "SIGKILL", "no memory"), 102.0)
    ranks.on_rank_event(ended(1, 3, "exit code 3"), 102.1)
    assert actions.done == ["ready ", "tail 2", "stopping", "terminate"]
    assert ranks.deadline == 102.0 + FAILED_GRACE
    with pytest.raises(LaunchError) as caught:
        ranks.on_ended(1)
    assert str(caught.value) == "rank 2 on gpu1 ended by itself (SIGKILL): no memory"
    assert caught.value.exit_code == 137


def test_a_rank_that_is_ended_from_outside_ends_the_others(
    ranks: Lifecycle, actions: Recorder
) -> None:
    ranks.on_rank_event(ended(1, 143, text="killed", external=True), 102.0)
    assert ranks.deadline == 102.0 + FAILED_GRACE
    ranks.on_ready((), 103.0)
    assert ranks.deadline == 102.0 + FAILED_GRACE
    ranks.on_deadline(107.0)
    assert actions.done[1:] == ["stopping", "terminate"]
    with pytest.raises(LaunchError, match="a rank was ended from outside"):
        ranks.on_ended(0)


def test_not_ready_in_time(life: Lifecycle, actions: Recorder) -> None:
    life.on_loaded("a", 101.0)
    life.on_deadline(160.0)
    assert actions.done == ["stopping", "terminate"]
    assert life.deadline == 160.0 + FAILED_GRACE
    with pytest.raises(LaunchError, match=r"not ready within --ready-timeout 60 s; .*: a$"):
        life.on_ended(0)


def test_the_first_failure_counts(life: Lifecycle, actions: Recorder) -> None:
    life.on_failure("first", 101.0)
    life.on_failure("second", 102.0)
    life.on_deadline(106.0)
    assert actions.done == ["stopping", "terminate", "kill"]
    with pytest.raises(LaunchError, match="first") as caught:
        life.on_ended(-signal.SIGKILL)
    assert caught.value.exit_code == 1


def test_the_prober_cannot_fail_a_stopping_launch(life: Lifecycle) -> None:
    life.on_signal(signal.SIGTERM, 101.0)
    life.on_failure("a model is not available", 102.0)
    life.on_rank_event(ended(), 103.0)
    life.on_ended(0)


def test_ready_after_a_stop_request_is_not_announced(life: Lifecycle, actions: Recorder) -> None:
    life.on_signal(signal.SIGTERM, 101.0)
    life.on_ready(("a",), 102.0)
    assert actions.done == ["stopping", "request_stop"]


@pytest.mark.parametrize(
    ("stop_requested", "end", "message"),
    [
        (
            True,
            ended(0, 1, "exit code 1", "Exit timeout"),
            "did not stop cleanly (exit code 1): Exi",
        ),
        (True, ended(0, 139, "SIGSEGV"), "tritonserver did not stop cleanly (SIGSEGV)"),
        (False, ended(0, 3, "exit code 3", "no"), "ended before it was ready (exit code 3): no"),
        (False, ended(0, 137, "SIGKILL"), "tritonserver ended before it was ready (SIGKILL)"),
        (False, ended(0, 1, text="a Python model died"), "a Python model died"),
    ],
)
def test_other_ends_are_errors(
    life: Lifecycle, stop_requested: bool, end: RankEvent, message: str
) -> None:
    if stop_requested:
        life.on_signal(signal.SIGTERM, 101.0)
    life.on_rank_event(end, 102.0)
    with pytest.raises(LaunchError) as caught:
        life.on_ended(end.code)
    assert message in str(caught.value)
    assert caught.value.exit_code == end.code


@pytest.mark.parametrize(
    ("code", "message", "exit_code"),
    [
        (-signal.SIGKILL, "mpirun ended before it was ready (SIGKILL)", 137),
        (213, "mpirun ended before it was ready (exit code 213)", 213),
        (0, "mpirun ended before it was ready (exit code 0)", 1),
    ],
)
def test_an_mpirun_that_ends_without_an_event_of_the_ranks(
    ranks: Lifecycle, code: int, message: str, exit_code: int
) -> None:
    with pytest.raises(LaunchError) as caught:
        ranks.on_ended(code)
    assert str(caught.value) == message
    assert caught.value.exit_code == exit_code
