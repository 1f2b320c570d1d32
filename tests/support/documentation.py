"""The pages of the documentation: their fenced blocks, and the commands in them.

A comment before a block says what the runner cannot know::

    <!-- needs: gpu -->             the block runs only there; see `NEEDS`
    <!-- file: deployment.yaml -->  the block is this file
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
#: What the tests' machine lacks -> words of which a block that needs it has one.
NEEDS = {
    "gpu": r"verify_llmapi",
    "cluster": r"kubectl|sbatch|systemctl|--hosts",
    "image": r"docker|/models/repository",
}
RUN = ("console", "bash", "python")
_BLOCK = re.compile(
    r"(?ms)(?:^ *<!-- (?P<key>needs|file): (?P<value>.*?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^ *```$"
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        needs: a key of `NEEDS`, or empty.
        file: the path of the file that it is, or empty.
    """

    page: str
    line: int
    language: str
    text: str
    needs: str = ""
    file: str = ""

    @property
    def commands(self) -> list[Command]:
        """The commands of a console, or a whole script."""
        if self.language == "console":
            return _commands(self.text)
        return [Command(self.text, "")] if self.language == "bash" else []


@dataclass(frozen=True)
class Command:
    """A command as a shell gets it, and the output that the page shows."""

    text: str
    output: str

    def shows(self, printed: str) -> bool:
        """Whether *printed* has the page's output. White space is free, … stands for anything."""
        parts = re.split("…", re.sub(r"\s+", "", self.output))
        pattern = ".*?".join(map(re.escape, parts))
        return re.search(pattern, re.sub(r"\s+", "", printed), re.DOTALL) is not None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            str(page.relative_to(ROOT)),
            text.count("\n", 0, found.start("language")) + 1,
            found["language"],
            re.sub(rf"(?m)^{found['indent']}", "", found["text"]),
            **({found["key"]: found["value"]} if found["key"] else {}),
        )
        for found in _BLOCK.finditer(text)
    ]


def _commands(text: str) -> list[Command]:
    found: list[Command] = []
    command, output = "", ""
    for line in text.splitlines(keepends=True):
        if command and not _complete(command):
            command += line
        elif line.startswith("$ "):
            if command:
                found.append(Command(command, output))
            command, output = line.removeprefix("$ "), ""
        else:
            output += line
    return [*found, Command(command, output)] if command else found


def _complete(command: str) -> bool:
    """Whether a shell would run it, instead of waiting for another line."""
    if command.rstrip().endswith(("\\", "|", "&&")):
        return False
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True
