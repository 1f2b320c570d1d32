"""A file of requests and the file of their answers: a job that resumes where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import SettingsError, TrtTokenizersError, for_clients
from trt_tokenizers.processing.answer import Answer

#: How each answer begins.
_START = b'{"index": '
#: `Pipeline.as_completed`, or a function like it.
AsCompleted = Callable[..., Iterator[tuple[int, Answer | Exception]]]


class BatchJob:
    """Answers every line of a file.

    A line of a ``.jsonl`` file is an object of the ensemble's inputs, a line of any other file is a
    text. Empty lines are skipped. The output has one JSON object per request, as each is answered:
    ``index``, the number of its line from 0; ``request``, a digest of the line and the parameters;
    then the outputs, or ``error``. So a job that was killed goes on with the lines that have no
    answer, after the removal of an answer that was half written.

    Attributes:
        total: requests in the input.
        done: those with an answer or an error.
        failed: those with an error.
    """

    def __init__(self, requests: Path, answers: Path, parameters: Mapping[str, Any]) -> None:
        """Open the files.

        Args:
            requests: the input.
            answers: the output; made, or continued.
            parameters: inputs of all requests, which those of a line replace.

        Raises:
            SettingsError: the output is not that of this input and these parameters, or another
                process writes it.
        """
        self._requests = requests
        self._parameters = parameters
        self._json = requests.suffix == ".jsonl"
        self._salt = json.dumps(parameters, sort_keys=True).encode()
        self._answers = answers.open("a+b")
        try:
            fcntl.flock(self._answers, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._answers.close()
            raise SettingsError(
                f"{answers} is being written by another process; wait for its end, or choose "
                "another file"
            ) from None
        self._done: set[int] = set()
        self.failed = 0
        try:
            self._resume(answers)
        except BaseException:
            self._answers.close()
            raise

    def _resume(self, path: Path) -> None:
        self._answers.seek(0)
        digests: dict[int, str] = {}  # of the lines that have answers
        end = 0
        for number, line in enumerate(self._answers, 1):
            if not line.endswith(b"\n") and (line.startswith(_START) or _START.startswith(line)):
                break  # the process was killed while it wrote
            end += len(line)
            try:
                answer = json.loads(line)
                digests[answer["index"]] = answer["request"]
            except (ValueError, KeyError, TypeError):
                raise SettingsError(
                    f"{path}:{number} is no answer of such a job; choose another file"
                ) from None
            self.failed += "error" in answer
        self._done.update(digests)
        self.total = 0
        for index, line in self._lines():
            self.total += 1
            if digests.pop(index, digest := self._digest(line)) != digest:
                raise self._changed(path, index)
        if digests:
            raise self._changed(path, min(digests))
        self._answers.truncate(end)

    def _changed(self, path: Path, index: int) -> SettingsError:
        return SettingsError(
            f"{path} has an answer to line {index + 1} of {self._requests} as it was before: that "
            "line or the parameters have changed; choose another file, or remove this one"
        )

    @property
    def done(self) -> int:
        return len(self._done)

    def __enter__(self) -> BatchJob:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()

    def run(
        self, as_completed: AsCompleted, check: Callable[[Answer], None] = lambda answer: None
    ) -> Iterator[int]:
        """Answer the requests that have no answer; yields `done` after each answer.

        Args:
            as_completed: gets the requests and the parameters.
            check: refuses an answer with an error.
        """
        numbers = itertools.count()
        started: dict[int, tuple[int, str]] = {}  # those without an answer

        def prompts() -> Iterator[str | Mapping[str, Any]]:
            for index, line in self._lines():
                if index in self._done:
                    continue
                digest = self._digest(line)
                try:
                    prompt = self._prompt(line)
                except (ValueError, RecursionError) as error:
                    self._write(index, digest, {"error": f"the line is no JSON object: {error}"})
                else:
                    started[next(numbers)] = index, digest
                    yield prompt

        for at, answer in as_completed(prompts(), **self._parameters):
            self._write(*started.pop(at), _outputs(answer, check))
            yield self.done

    def _lines(self) -> Iterable[tuple[int, bytes]]:
        with self._requests.open("rb") as file:
            for index, line in enumerate(file):
                if line.strip():
                    yield index, line.rstrip(b"\r\n")

    def _digest(self, line: bytes) -> str:
        return hashlib.blake2b(line + b"\n" + self._salt, digest_size=8).hexdigest()

    def _prompt(self, line: bytes) -> str | Mapping[str, Any]:
        if not self._json:
            return line.decode(errors="surrogateescape")  # the pipeline refuses what is no UTF-8
        prompt = json.loads(line)
        if not isinstance(prompt, dict):
            raise ValueError(f"it is {prompt!r:.40}")
        return prompt

    def _write(self, index: int, digest: str, outputs: Mapping[str, Any]) -> None:
        line = {"index": index, "request": digest, **outputs}
        text = json.dumps(line, ensure_ascii=False) + "\n"
        self._answers.write(text.encode(errors="backslashreplace"))
        self._answers.flush()
        self._done.add(index)
        self.failed += "error" in outputs


def _outputs(answer: Answer | Exception, check: Callable[[Answer], None]) -> dict[str, Any]:
    if isinstance(answer, Exception):
        return {"error": for_clients(answer)}
    try:
        for each in (answer, *answer.others):
            check(each)
    except TrtTokenizersError as error:
        return {"error": str(error)}
    return answer.outputs()
