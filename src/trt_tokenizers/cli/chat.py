"""The command chat: a streaming conversation with a running server."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

import click

from trt_tokenizers.cli.common import Command
from trt_tokenizers.client import stream
from trt_tokenizers.errors import EngineError, RequestError


@dataclass(frozen=True)
class Sampling:
    """What the chat asks of the engine; None leaves it to the engine."""

    max_tokens: int = 512
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


class Chat:
    """A conversation with a server that keeps none: each request carries the whole history.

    Attributes:
        messages: the history, as ``[{"role": …, "content": …}, …]``.
    """

    def __init__(self, url: str, model: str, system: str | None, sampling: Sampling) -> None:
        self._url, self._model = url, model
        self._sampling = {k: v for k, v in vars(sampling).items() if v is not None}
        self._system = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, str]] = list(self._system)

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = list(self._system)

    def ask(self, question: str, write: Callable[[str], None]) -> None:
        """Send *question* and hand the pieces of the answer to *write*.

        The history keeps what was written, also of an answer that KeyboardInterrupt stopped; a
        question without any answer is forgotten.

        Raises:
            RequestError, EngineError: as in `generate`.
        """
        asked = [*self.messages, {"role": "user", "content": question}]
        payload = {
            "messages": json.dumps(asked, ensure_ascii=False),
            "stream": True,
            **self._sampling,
        }
        pieces: list[str] = []
        answers = stream(self._url, payload, model=self._model)
        try:
            with contextlib.closing(answers):
                for answer in answers:
                    piece = str(answer.get("text_output", ""))
                    pieces.append(piece)
                    write(piece)
        finally:
            if text := "".join(pieces):
                self.messages = [*asked, {"role": "assistant", "content": text}]


def run_chat(chat: Chat, stdin: TextIO, stdout: TextIO, stderr: TextIO) -> None:
    """Read questions and stream answers until the input ends or ``/exit``.

    On a terminal Ctrl-C stops the running answer, Ctrl-D ends the chat, and errors are shown and
    the chat goes on. Otherwise each line is a question, and the first error ends the chat.

    Raises:
        RequestError, EngineError, KeyboardInterrupt: only where *stdin* is no terminal.
    """
    terminal = stdin.isatty()
    if terminal:
        stderr.write("/reset forgets the conversation, /exit or Ctrl-D ends\n")

    def write(piece: str) -> None:
        stdout.write(piece)
        stdout.flush()

    while True:
        try:
            line = _read_line(stdin, terminal)
            if line is None:
                break
            question = line.strip()
            if question == "/exit":
                break
            if question == "/reset":
                chat.reset()
            elif question:
                chat.ask(question, write)
                write("\n")
        except KeyboardInterrupt:
            if not terminal:
                raise
            write("\n")
        except (RequestError, EngineError) as error:
            if not terminal:
                raise
            stderr.write(f"error: {error}\n")
    if terminal:
        write("\n")


def _read_line(stdin: TextIO, terminal: bool) -> str | None:
    if not terminal:
        return stdin.readline() or None
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - editing and history for input()
    try:
        return input("> ")
    except EOFError:
        return None


@click.command("chat", cls=Command)
@click.option("--url", default="http://127.0.0.1:8000", help="The server's HTTP address.")
@click.option("--model", default="ensemble", help="The model to talk to.")
@click.option("--system", help="A system message.")
@click.option("--max-tokens", default=512, type=click.IntRange(1), help="Of each answer.")
@click.option("--temperature", type=click.FloatRange(0))
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True))
@click.option("--seed", type=int)
def chat(
    *,
    url: str,
    model: str,
    system: str | None,
    max_tokens: int,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
) -> None:
    """Talk to a running server.

    On a terminal: Ctrl-C stops an answer, /reset forgets the conversation, /exit or Ctrl-D ends.
    Otherwise each line of the input is a question.

    \b
    Example:
      echo "What is the capital of France?" | trt-tokenizers chat

    \b
    Exit codes:
      0  ended as asked
      1  the server refused a request, failed or is not there (input from a terminal: never)
      2  wrong options
    """
    run_chat(
        Chat(url, model, system, Sampling(max_tokens, temperature, top_p, seed)),
        sys.stdin,
        sys.stdout,
        sys.stderr,
    )
