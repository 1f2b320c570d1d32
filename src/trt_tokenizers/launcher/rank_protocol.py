"""The two messages between launcher and rank agents: the agent's command line and its events.

Standard library only, because the rank agent imports it with ``python -I -S``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

_AGENT = str(Path(__file__).with_name("rank_agent.py"))
#: Bytes that one write puts into a pipe without interleaving, and that mpirun reads at once.
LONGEST = 4096


@dataclasses.dataclass(frozen=True)
class RankCommand:
    """What each rank of a launch runs; `to_argv` gives the agent's command line.

    Attributes:
        leader: rank 0's command line.
        follower: every other rank's command line.
        shm_prefix: begins every name of the server in /dev/shm. ``{rank}`` in it stands for the
            rank's number, also where a command line contains the whole prefix.
        env: ``NAME=value``, set for the server on every host.
        rank_variable: the environment variable in which the MPI gives the rank; empty for one rank
            without MPI.
        drain: seconds that rank 0's running requests get when it must stop.
        log_dir: each rank's output goes to ``rankN.log`` in it; empty for the standard outputs.
    """

    leader: tuple[str, ...]
    shm_prefix: str
    follower: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    rank_variable: str = ""
    drain: int = 0
    log_dir: str = ""

    def to_argv(self, python: str) -> tuple[str, ...]:
        """The agent's command line, run by the interpreter *python*."""
        argv = [python, "-I", "-S", _AGENT, f"--shm-prefix={self.shm_prefix}"]
        argv += [f"--env={pair}" for pair in self.env]
        if self.rank_variable:
            argv.append(f"--rank-variable={self.rank_variable}")
        if self.drain:
            argv.append(f"--drain={self.drain}")
        if self.log_dir:
            argv.append(f"--log-dir={self.log_dir}")
        argv += ["--leader", *self.leader]
        if self.follower:
            argv += ["--follower", *self.follower]
        return tuple(argv)

    @classmethod
    def from_argv(cls, argv: Sequence[str]) -> RankCommand:
        """The inverse of `to_argv`, given the arguments after the agent's own path."""
        options, rest = _split(argv, "--leader")
        leader, follower = _split(rest, "--follower")
        values: dict[str, list[str]] = {}
        for option in options:
            name, _, value = option.partition("=")
            values.setdefault(name, []).append(value)
        return cls(
            leader=tuple(leader),
            follower=tuple(follower),
            shm_prefix=values["--shm-prefix"][0],
            env=tuple(values.get("--env", ())),
            rank_variable=values.get("--rank-variable", [""])[0],
            drain=int(values.get("--drain", ["0"])[0]),
            log_dir=values.get("--log-dir", [""])[0],
        )

    @property
    def mark(self) -> bytes:
        """Begins every event line. It is random, so a model's output cannot forge an event."""
        return b"%s: " % self.shm_prefix.replace("{rank}", "").encode()

    @property
    def launch_prefix(self) -> str:
        """Begins every name of the whole launch in /dev/shm."""
        return self.shm_prefix.partition("r{rank}")[0]

    def argv_of(self, rank: int) -> list[str]:
        argv = self.follower if rank else self.leader
        own = self.shm_prefix_of(rank)
        return [argument.replace(self.shm_prefix, own) for argument in argv]

    def shm_prefix_of(self, rank: int) -> str:
        return self.shm_prefix.replace("{rank}", str(rank))


def _split(argv: Sequence[str], at: str) -> tuple[Sequence[str], Sequence[str]]:
    """The arguments before and after the first *at*."""
    if at not in argv:
        return argv, ()
    index = list(argv).index(at)
    return argv[:index], argv[index + 1 :]


@dataclasses.dataclass(frozen=True)
class RankEvent:
    """Something that happened to a rank; a line of its agent's standard error.

    Attributes:
        event: ``started``, ``loaded`` (a model), ``warning`` or ``ended``.
        pid: the server's process id on *host*; 0 if it never started.
        text: of ``loaded``, the model's name; of ``ended``, the reason if it is known.
        code: of ``ended``: 0 if the end was requested and clean, else n, or 128 + n by signal n.
        how: of ``ended``: e.g. ``SIGKILL`` or ``exit code 3``; empty if *text* is enough.
        external: of ``ended``: another process ended this agent, so the cause is not this rank.
        tail: of ``ended``: the server's last output lines.
    """

    rank: int
    event: str
    host: str = ""
    pid: int = 0
    text: str = ""
    code: int = 0
    how: str = ""
    external: bool = False
    tail: str = ""

    def to_line(self, mark: bytes) -> bytes:
        """The event as one line of at most `LONGEST` bytes that begins with `RankCommand.mark`."""
        line = mark + json.dumps(dataclasses.asdict(self)).encode() + b"\n"
        if len(line) <= LONGEST:
            return line
        if self.tail:
            return dataclasses.replace(self, tail=self.tail.partition("\n")[2]).to_line(mark)
        return dataclasses.replace(self, text=self.text[:400]).to_line(mark)

    @classmethod
    def find(cls, line: bytes, mark: bytes) -> tuple[bytes, RankEvent | None]:
        """Split *line* into the output before an event and the event, None if there is none."""
        before, found, after = line.partition(mark)
        if found:
            with contextlib.suppress(ValueError, TypeError):
                return before, cls(**json.loads(after))
        return line, None
