"""A problem that `check` reports: what is wrong, where, and how to fix it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        path, line: where it is.
        what: what is wrong, then, after the last ``"; "``, the fix.
    """

    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"

    def as_dict(self) -> dict[str, str | int]:
        """For JSON. ``mend`` is the older name of ``fix`` and stays for existing scripts."""
        what, _, fix = self.what.rpartition("; ")
        return {
            "file": str(self.path), "line": self.line, "what": what or fix, "fix": fix, "mend": fix,
        }  # fmt: skip

    @classmethod
    def at(cls, path: Path, needle: str, what: str) -> Problem:
        """A problem on the first line of *path* that contains *needle*; on line 1 if none does."""
        return cls(path, line_of(path, needle), what)


def line_of(path: Path, needle: str) -> int:
    """The number of the first line that contains *needle*; 1 if no line does."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((number for number, line in enumerate(lines, 1) if needle in line), 1)


def parameter_line(path: Path, message: str, names: Mapping[str, str]) -> int:
    """The line of the parameter of *names* that *message* mentions; 1 if it mentions none."""
    named = next((n for n in names if f"{n!r}" in message or f"{n} " in message), None)
    return 1 if named is None else line_of(path, f'key: "{named}"')
