"""A problem that `check` reports: what is wrong, where, and how to fix it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.hf_config import read_text
from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.repository.placeholders import bare_placeholders


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
        """For JSON."""
        what, _, fix = self.what.rpartition("; ")
        return {"file": str(self.path), "line": self.line, "what": what or fix, "fix": fix}

    @classmethod
    def at(cls, path: Path, needle: str, what: str) -> Problem:
        """A problem on the first line of *path* that contains *needle*; on line 1 if none does."""
        return cls(path, line_of(path, needle), what)


class ConfigError(RepositoryError):
    """A config.pbtxt cannot be read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def read_model_config(path: Path) -> Any:
    """The ModelConfig in *path*. It may hold placeholders inside quotes, which mean "not set".

    Raises:
        ConfigError: it cannot be read; names the line.
    """
    try:
        text = read_text(path)
        for line, name in bare_placeholders(text):
            fix = f"fill it: fill_template -i {path} {name}:VALUE"
            raise ConfigError(Problem(path, line, f"${{{name}}} has no value; {fix}"))
        return parse_config(text)
    except OSError as error:
        raise ConfigError(Problem(path, 1, f"{error.strerror}; restore the file")) from None
    except ValueError as error:
        found = re.search(r"(\d+):\d+", str(error))
        line = int(found[1]) if found else 1
        raise ConfigError(Problem(path, line, f"{error}; correct it")) from None


def line_of(path: Path, needle: str) -> int:
    """The number of the first line that contains *needle*; 1 if no line does."""
    try:
        lines = read_text(path).splitlines()
    except OSError:
        return 1
    return next((number for number, line in enumerate(lines, 1) if needle in line), 1)


def parameter_line(path: Path, message: str, names: Mapping[str, str]) -> int:
    """The line of the parameter of *names* that *message* mentions; 1 if it mentions none."""
    named = next((n for n in names if f"{n!r}" in message or f"{n} " in message), None)
    return 1 if named is None else line_of(path, f'key: "{named}"')
