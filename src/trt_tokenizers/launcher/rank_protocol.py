"""What launcher and rank agents tell each other: command lines one way, reports the other.

Standard library only, as the agent is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

_AGENT = str(Path(__file__).with_name("rank_agent.py"))
#: Bytes that one write puts into a pipe whole, and that mpirun reads at once.
LONGEST = 4096


@dataclasses.dataclass(frozen=True)
class RankCommand:
    """The agent's command line: what each rank of a launch runs.

    Attributes:
        leader: rank 0's command line.
        follower: that of every other rank; ``{rank}`` in it stands for the rank's number.
        shm_prefix: what the server puts into /dev/shm begins with this; ``{rank}`` likewise.
        env: ``NAME=value``, set for the server whatever host it runs on.
        rank_variable: where this MPI says the rank; empty for one rank without MPI.
        drain: seconds for rank 0's running requests once it is to stop.
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
        """The inverse of `to_argv`, given what follows the agent's own path."""
        options, _, rest = _split(argv, "--leader")
        leader, _, follower = _split(rest, "--follower")
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
        """What a report begins with. No model that prints a prompt can be made to say it."""
        return b"%s: " % self.shm_prefix.replace("{rank}", "").encode()

    def argv_of(self, rank: int) -> list[str]:
        argv = self.follower if rank else self.leader
        return [argument.replace("{rank}", str(rank)) for argument in argv]

    def shm_prefix_of(self, rank: int) -> str:
        return self.shm_prefix.replace("{rank}", str(rank))


def _split(argv: Sequence[str], at: str) -> tuple[Sequence[str], str, Sequence[str]]:
    if at not in argv:
        return argv, "", ()
    index = list(argv).index(at)
    return argv[:index], at, argv[index + 1 :]


@dataclasses.dataclass(frozen=True)
class RankEvent:
    """One thing that happened to a rank, as a line of its agent's standard error.

    Attributes:
        event: ``started``, ``loaded`` (a model) or ``ended``.
        pid: the server's process id on *host*; 0 if it never was one.
        text: the model's name; of an end, its reason as far as it is known.
        code: of an end: 0 if it was asked for and clean, else n, or 128 + n by signal n.
        how: of an end: e.g. ``SIGKILL`` or ``exit code 3``; empty where *text* says it all.
        told: of an end: somebody ended this agent, so the cause is elsewhere.
    """

    rank: int
    event: str
    host: str = ""
    pid: int = 0
    text: str = ""
    code: int = 0
    how: str = ""
    told: bool = False

    def to_line(self, mark: bytes) -> bytes:
        """
        Args:
            mark: of the launch, `RankCommand.mark`.
        """
        line = mark + json.dumps(dataclasses.asdict(self)).encode() + b"\n"
        if len(line) <= LONGEST:
            return line
        return dataclasses.replace(self, text=self.text[:400]).to_line(mark)

    @classmethod
    def find(cls, line: bytes, mark: bytes) -> tuple[bytes, RankEvent | None]:
        """What stands before the report in *line*, and the report if there is one."""
        before, found, after = line.partition(mark)
        if found:
            with contextlib.suppress(ValueError, TypeError):
                return before, cls(**json.loads(after))
        return line, None
