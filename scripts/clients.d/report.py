"""What the client programs share: their arguments, and one line of JSON for each thing asked."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version


@dataclass
class Report:
    """The server to ask, and what came of it.

    Attributes:
        http, grpc: addresses, host:port.
        model: the model's folder, with its tokenizer.
        prompt: what to ask; the answer holds ``expected``.
        decoupled: whether the ensemble streams; otherwise it answers ``infer``.
    """

    http: str
    grpc: str
    model: str
    prompt: str
    expected: str
    decoupled: bool

    def ask(self, asked: str, call: Callable[[], str], timeout: float = 30) -> None:
        """Run *call* and print whether its text holds what is expected."""
        outcome: list[str] = []
        error: list[str] = []
        # A client that reads in a thread of its own hangs when that thread fails.
        threading.excepthook = lambda failed: error.append(first_line(failed.exc_value))

        def run() -> None:
            try:
                outcome.append(call())
            except Exception as raised:
                error.append(first_line(raised))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(timeout)
        if thread.is_alive():
            error.append(f"no end of the answer after {timeout:.0f} s")
        elif outcome and self.expected not in outcome[0]:
            error.append(f"{outcome[0][:80]!r} does not hold {self.expected!r}")
        say(asked=asked, error=error[0] if error else "")


def first_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def say(**values: str) -> None:
    """Print one line of JSON."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def run(program: Callable[[Report], None], distribution: str) -> None:
    """Print the client's version, run *program*, and end even if a client's thread hangs."""
    *server, decoupled = sys.argv[1:]
    say(version=version(distribution))
    program(Report(*server, decoupled == "decoupled"))
    os._exit(0)
