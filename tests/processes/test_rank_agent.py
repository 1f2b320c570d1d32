"""The rank agent alone: its output, its rank, its exit code, its end."""

from __future__ import annotations

import dataclasses
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launching import alive, until
from trt_tokenizers.launcher import shared_memory
from trt_tokenizers.launcher.rank_protocol import LONGEST, RankCommand, RankEvent
from trt_tokenizers.launcher.shared_memory import make_private, remove_with, sweep
from trt_tokenizers.streams.stream_folder import SHM

SLEEP = "import signal, sys, time; print('up', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(15, signal.SIG_IGN); {SLEEP}"


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


class Agent:
    """A real agent process without MPI."""

    def __init__(self, ranks: RankCommand, env: dict[str, str], limit: int) -> None:
        def set_limit() -> None:
            if limit:
                resource.setrlimit(resource.RLIMIT_STACK, (min(limit, 8 << 20), limit))

        self.mark = ranks.mark
        self.process = subprocess.Popen(
            ranks.to_argv(sys.executable),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **env},
            preexec_fn=set_limit,
        )
        self.events: list[RankEvent] = []
        self.lines: list[bytes] = []

    def until(self, name: str) -> RankEvent:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            rest, event = RankEvent.find(line, self.mark)
            if event is None:
                self.lines.append(rest)
                continue
            self.events.append(event)
            if event.event == name:
                return event
        raise AssertionError(f"no {name}: {self.events} {self.lines}")

    def up(self) -> int:
        """The server's process id, after its first output."""
        pid = self.until("started").pid
        assert self.process.stdout is not None
        assert self.process.stdout.readline().endswith(b"up\n")
        return pid


@pytest.fixture
def run() -> Iterator[object]:
    agents: list[Agent] = []

    def run(
        code: str,
        follower: str = "pass",
        *,
        rank: int | None = None,
        limit: int = 0,
        **more: object,
    ) -> Agent:
        ranks = RankCommand(
            leader=python(code),
            follower=python(follower),
            shm_prefix=f"trt-test-{secrets.token_hex(4)}-r{{rank}}-",
            rank_variable="" if rank is None else "TEST_RANK",
        )
        ranks = dataclasses.replace(ranks, **more)  # type: ignore[arg-type]
        agents.append(Agent(ranks, {} if rank is None else {"TEST_RANK": str(rank)}, limit))
        return agents[-1]

    yield run
    for agent in agents:
        agent.process.terminate()
        agent.process.communicate(timeout=30)


def test_a_drain_of_rank_0_ends_its_server_cleanly(run) -> None:
    agent = run(SLEEP, SLEEP, rank=0)
    server = agent.up()
    agent.process.send_signal(signal.SIGUSR1)
    end = agent.until("ended")
    assert (end.rank, end.code, end.pid, end.external) == (0, 0, server, False)
    assert agent.process.wait(30) == 0
    assert not alive(server)


def test_a_drain_leaves_other_ranks_to_their_engines(run) -> None:
    agent = run("", SLEEP, rank=2)
    server = agent.up()
    agent.process.send_signal(signal.SIGUSR1)
    time.sleep(1.0)  # the agent acts within 0.25 s
    assert alive(server)
    agent.process.send_signal(signal.SIGUSR1)  # two pending signals may merge, so repeat it
    until(lambda: agent.process.send_signal(signal.SIGUSR1) or not alive(server))
    assert agent.until("ended").code == 0
    assert agent.process.wait(30) == 0


def test_a_server_that_does_not_end_is_killed(run) -> None:
    agent = run("", STUBBORN, rank=1)
    server = agent.up()
    until(lambda: agent.process.send_signal(signal.SIGUSR1) or not alive(server), 30)
    assert agent.until("ended").code == 0


@pytest.mark.parametrize(
    ("code", "exit_code", "how"),
    [("raise SystemExit(3)", 3, "exit code 3"), ("pass", 1, "exit code 0"),
     ("import os; os.kill(os.getpid(), 9)", 137, "SIGKILL")],
)  # fmt: skip
def test_an_end_without_an_order(run, code: str, exit_code: int, how: str) -> None:
    agent = run("", code, rank=1)
    end = agent.until("ended")
    assert (end.rank, end.code, end.how) == (1, exit_code, how)
    assert agent.process.wait(30) == exit_code


def test_sigterm_kills_at_once(run) -> None:
    agent = run(STUBBORN)
    server = agent.up()
    agent.process.terminate()
    end = agent.until("ended")
    assert (end.code, end.external) == (143, True)
    assert agent.process.wait(30) == 143
    assert not alive(server)


def test_the_shared_memory_of_a_rank_is_swept(run) -> None:
    prefix = f"trt-test-{secrets.token_hex(4)}-r{{rank}}-"
    shm = Path("/dev/shm")
    mine, other = (shm / (prefix.format(rank=rank) + "x") for rank in (1, 2))
    try:
        for path in (mine, other):
            path.touch()
        run("", rank=1, shm_prefix=prefix).until("ended")
        assert not mine.exists()
        assert other.exists()
    finally:
        other.unlink()


def test_sweep_removes_registered_paths(tmp_path: Path) -> None:
    prefix = f"trt-launch-{secrets.token_hex(6)}-r0-"
    folder, file, unrelated = (tmp_path / name for name in ("folder", "file", "unrelated"))
    folder.mkdir()
    for path in (folder / "17.0", file, unrelated):
        path.touch()
    for path in (folder, file, tmp_path / "missing"):
        remove_with(prefix, path)
    sweep(prefix, set())
    assert list(tmp_path.iterdir()) == [unrelated]
    assert not list(SHM.glob(f"{prefix}*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link of another user")
def test_sweep_ignores_the_links_of_other_users(tmp_path: Path) -> None:
    prefix = f"trt-launch-{secrets.token_hex(6)}-r0-"
    remove_with(prefix, tmp_path)
    (link,) = SHM.glob(f"{prefix}*")
    os.lchown(link, 65534, 65534)
    sweep(prefix, set())
    assert tmp_path.exists()
    assert not list(SHM.glob(f"{prefix}*"))


def test_lines_begin_with_the_rank(run) -> None:
    agent = run("", "print('a\\nb', end='')", rank=3)
    out, _ = agent.process.communicate(timeout=30)
    assert out == b"[3] a\n[3] b"


def test_a_program_that_cannot_be_run(run) -> None:
    agent = run("", leader=("/nowhere/{rank}",))
    end = agent.until("ended")
    assert end.text == "/nowhere/{rank} cannot be run: No such file or directory"
    assert agent.process.wait(30) == 126


def test_the_rank_is_replaced_only_in_the_prefix() -> None:
    prefix = "p-r{rank}-"
    ranks = RankCommand(
        leader=("a",), follower=("b", "/m/{rank}", f"x={prefix}"), shm_prefix=prefix
    )
    assert ranks.argv_of(3) == ["b", "/m/{rank}", "x=p-r3-"]


STACK = "import resource; print(*resource.getrlimit(resource.RLIMIT_STACK))"


def test_the_server_has_a_large_stack(run) -> None:
    out, err = run(STACK).process.communicate(timeout=30)
    soft, hard = map(int, out.split()[-2:])
    assert soft >= 256 << 20
    assert hard == resource.getrlimit(resource.RLIMIT_STACK)[1]
    assert b"warning" not in err


def test_a_hard_limit_of_the_stack_is_reported(run) -> None:
    agent = run(STACK, limit=64 << 20)
    text = agent.until("warning").text
    assert text.startswith(
        "the hard limit of the stack is 65536 KB, so a large or nested HTTP body"
    )
    assert text.endswith(" KB (ulimit -Hs) before the start")
    out, _ = agent.process.communicate(timeout=30)
    assert out.split()[-2] == b"%d" % (64 << 20), "what is allowed"


def test_files_in_shared_memory_become_private(run) -> None:
    prefix = f"trt-test-{secrets.token_hex(4)}-r{{rank}}-"
    agent = run(SLEEP, shm_prefix=prefix)
    agent.up()
    new = SHM / (prefix.format(rank=0) + "new")
    new.touch(0o644)
    until(lambda: new.stat().st_mode & 0o777 == 0o600)


def test_files_that_cannot_be_private_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"trt-test-{secrets.token_hex(4)}-"
    file = SHM / f"{prefix}x"
    file.touch(0o644)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    assert make_private(prefix) == (
        f"other users of this host can read the prompts in /dev/shm/{prefix}*: "
        "Operation not permitted; let the launcher own these files"
    )
    file.unlink()


def test_the_environments_of_a_killed_server_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"trt-launch-{secrets.token_hex(6)}-r0-"
    monkeypatch.setattr(shared_memory, "_ENVIRONMENTS", tmp_path / "python_env_*")
    older, own, other = (tmp_path / f"python_env_{name}" for name in ("older", "own", "other"))
    for folder in (older, own):
        (folder / "files").mkdir(parents=True)
    os.utime(older, (1.0, 1.0))
    shared_memory.remove_environments(prefix, 2.0)
    sweep(prefix, set())
    assert list(tmp_path.iterdir()) == [older]
    # Two servers have started, and the other one still needs its folder.
    for folder in (own, other):
        folder.mkdir()
    monkeypatch.setattr(shared_memory, "any_running", lambda name: True)
    shared_memory.remove_environments(prefix, 2.0)
    sweep(prefix, set())
    assert sorted(tmp_path.iterdir()) == sorted([older, own, other])
    monkeypatch.setattr(shared_memory, "any_running", lambda name: False)
    shared_memory.remove_environments(prefix, 2.0)
    sweep(prefix, set())
    assert list(tmp_path.iterdir()) == [older]


def test_a_missing_rank_variable(run) -> None:
    agent = run("pass", rank_variable="NO_SUCH_RANK")
    _, err = agent.process.communicate(timeout=30)
    assert agent.process.returncode == 2
    assert err.startswith(b"error: NO_SUCH_RANK is '', but the MPI must set it to the rank; ")


def test_an_event_of_any_size_is_one_short_line() -> None:
    """The last lines of the output are kept."""
    tail = "\n".join(f"{number} {'é' * 150}" for number in range(20))
    mark = b"mark: "
    line = RankEvent(0, "ended", text="x" * 9000, code=1, tail=tail).to_line(mark)
    assert len(line) <= LONGEST
    line = RankEvent(0, "ended", text="why", code=1, tail=tail).to_line(mark)
    assert 3000 < len(line) <= LONGEST
    _, found = RankEvent.find(line, mark)
    assert found is not None
    assert found.text == "why"
    assert found.tail.splitlines()[-1] == tail.splitlines()[-1]


def test_an_event_is_found_after_other_output() -> None:
    event = RankEvent(1, "ended", text="why: «ß»", code=3)
    mark = RankCommand(leader=(), shm_prefix="trt-launch-12ab-r{rank}-").mark
    line = event.to_line(mark)
    assert RankEvent.find(line, mark) == (b"", event)
    assert RankEvent.find(b"half a li" + line, mark) == (b"half a li", event)
    assert RankEvent.find(line[:-9], mark) == (line[:-9], None), "cut short"
    assert RankEvent.find(mark + b"1\n", mark) == (mark + b"1\n", None)
    other = RankCommand(leader=(), shm_prefix="trt-launch-34cd-r{rank}-").mark
    assert RankEvent.find(line, other) == (line, None), "the mark of another launch"
    assert len(dataclasses.replace(event, text="ß" * 10**5).to_line(mark)) <= LONGEST
