"""The command chat: a streaming conversation with a running server."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Generator, Mapping
from typing import Any, TextIO

import click

from trt_tokenizers.cli.common import Command, schema_option
from trt_tokenizers.client import stream
from trt_tokenizers.errors import EngineError, RequestError
from trt_tokenizers.processing.answer_schema import AnswerSchema


class Chat:
    """A conversation. Each request carries the whole history, because the server stores none.

    Attributes:
        messages: the history, as ``[{"role": …, "content": …}, …]``.
    """

    def __init__(
        self,
        url: str,
        model: str,
        system: str | None,
        sampling: Mapping[str, Any],
        schema: AnswerSchema | None = None,
    ) -> None:
        self._url, self._model, self._schema = url, model, schema
        self._sampling = {k: v for k, v in sampling.items() if v is not None}
        self._system = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, str]] = list(self._system)

    def reset(self) -> None:
        """Remove everything but the system message."""
        self.messages = list(self._system)

    def ask(self, question: str, write: Callable[[str], None]) -> None:
        """Send *question* and pass each piece of the answer to *write*.

        With a schema the answer is one piece, if it follows the schema. The history keeps the
        written part of an answer, also after KeyboardInterrupt. It does not keep a question without
        an answer.

        Raises:
            RequestError, EngineError: as in `generate` and `AnswerSchema.check`.
        """
        messages = [*self.messages, {"role": "user", "content": question}]
        payload = {
            "messages": json.dumps(messages, ensure_ascii=False),
            "stream": True,
            **self._sampling,
            **(self._schema.inputs if self._schema else {}),
        }
        written: list[str] = []
        try:
            with contextlib.closing(self._pieces(payload)) as pieces:
                for piece in pieces:
                    written.append(piece)
                    write(piece)
        finally:
            if text := "".join(written):
                self.messages = [*messages, {"role": "assistant", "content": text}]

    def _pieces(self, payload: Mapping[str, Any]) -> Generator[str, None, None]:
        with contextlib.closing(stream(self._url, payload, model=self._model)) as answers:
            if self._schema is None:
                for answer in answers:
                    yield str(answer.get("text_output", ""))
                return
            text, reason = "", ""
            for answer in answers:
                text += str(answer.get("text_output", ""))
                reason = str(answer.get("finish_reason", reason))
            self._schema.check(text, reason, payload["max_tokens"])
            yield text


def run_chat(chat: Chat, stdin: TextIO, stdout: TextIO, stderr: TextIO) -> None:
    """Read questions and stream answers until the input ends or ``/exit``.

    On a terminal, Ctrl-C stops the running answer, Ctrl-D ends the chat, and an error does not end
    it. Otherwise each line is a question, and the first error ends the chat.

    Raises:
        RequestError, EngineError, KeyboardInterrupt: only if *stdin* is not a terminal.
    """
    terminal = stdin.isatty()
    if terminal:
        stderr.write("/reset clears the conversation, /exit or Ctrl-D ends it\n")

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
@click.option("--model", default="ensemble", help="The model to use.")
@click.option("--system", help="A system message.")
@click.option("--max-tokens", default=512, type=click.IntRange(1), help="Tokens per answer.")
@click.option("--temperature", type=click.FloatRange(0), help="Sampling temperature.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Nucleus sampling.")
@click.option("--seed", type=int, help="Seed of the sampling.")
@schema_option
def chat(
    *, url: str, model: str, system: str | None, schema: AnswerSchema | None, **sampling: Any
) -> None:
    """Chat with a running server.

    On a terminal, Ctrl-C stops an answer, /reset clears the conversation, and /exit or Ctrl-D ends
    the chat. Otherwise each line of the input is a question.

    \b
    Example:
      echo "What is the capital of France?" | trt-tokenizers chat
      echo "The weather in Seoul?" | trt-tokenizers chat --schema weather.json

    \b
    Exit codes:
      0  the chat ended
      1  the server refused a request, failed or did not answer, or the answer does not follow
         --schema or was cut (never on a terminal)
      2  wrong options
    """
    run_chat(Chat(url, model, system, sampling, schema), sys.stdin, sys.stdout, sys.stderr)
