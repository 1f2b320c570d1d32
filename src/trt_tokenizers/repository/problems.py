"""What `check` finds: one thing that is wrong, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where (file:line), what, and the mend behind a semicolon."""

    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"

    def as_dict(self) -> dict[str, str | int]:
        """For JSON: file, line, what, mend."""
        what, _, mend = self.what.rpartition("; ")
        return {"file": str(self.path), "line": self.line, "what": what or mend, "mend": mend}


def line_of(path: Path, needle: str, after: str = "") -> int:
    """The first line of the file with *needle*, not before one with *after*; 1 if there is none."""
    seen = not after
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        seen = seen or after in line
        if seen and needle in line:
            return number
    return 1


def parameter_line(path: Path, message: str, raw: Mapping[str, str]) -> int:
    """The line of the parameter that *message* names, or 1."""
    named = next((key for key in raw if f"{key!r}" in message or f"{key} " in message), None)
    return 1 if named is None else line_of(path, f'key: "{named}"')
