"""What the client programs share: their arguments, and one line of JSON for each thing asked."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

#: What clients of OpenAI's API ask, and a tool for them.
QUESTION = "What is the capital of France?"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@dataclass
class Report:
    """The server to ask, and what came of it.

    Attributes:
        http, grpc: addresses, host:port.
        openai: base URL of OpenAI's API.
        model: the model's folder, with its tokenizer.
        prompt: what to ask; the answer holds ``expected``.
        decoupled: whether the ensemble streams; otherwise it answers ``infer``.
        scripted: whether the answer is a call of the first tool, and a text after its result.
    """

    http: str
    grpc: str
    openai: str
    model: str
    prompt: str
    expected: str
    decoupled: bool
    scripted: bool

    def ask(
        self, asked: str, call: Callable[[], str], timeout: float = 30, refusal: str = ""
    ) -> None:
        """Run *call* and print whether its text holds what is expected, or whether the server says
        *refusal*."""
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
        refused = {"worked": "refused"} if refusal and error and refusal in error[0] else {}
        say(asked=asked, error=error[0] if error else "", **refused)


def first_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def say(**values: str) -> None:
    """Print one line of JSON."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def run(program: Callable[[Report], None], distribution: str) -> None:
    """Print the client's version, run *program*, and end even if a client's thread hangs."""
    say(version=version(distribution))
    program(Report(**json.loads(sys.argv[1])))
    os._exit(0)
