"""The launcher's lines, and the live line of a terminal."""

from __future__ import annotations

import io
import os
import pty
from collections.abc import Iterator

import pytest

from trt_tokenizers.launcher.console import Console

CLEAR = "\r\033[K"


def triton(text: str) -> bytes:
    return f'I1128 17:49:59.239373 12976 model_lifecycle.cc:472] "{text}"\n'.encode()


class Terminal:
    """Both ends of a terminal."""

    def __init__(self) -> None:
        self._reader, writer = pty.openpty()
        self.stream = os.fdopen(writer, "w")

    def shown(self) -> str:
        os.set_blocking(self._reader, False)
        try:
            return os.read(self._reader, 65536).decode().replace("\r\n", "\n")
        except BlockingIOError:
            return ""

    def close(self) -> None:
        self.stream.close()
        os.close(self._reader)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    yield made
    made.close()


def test_the_last_line_says_what_loads(terminal: Terminal) -> None:
    console = Console(terminal.stream, quiet=True)
    console.tick(0.5)
    assert terminal.shown() == ""
    console.read(triton("loading: preprocessing:1"))
    console.read(triton("loading: tensorrt_llm:1"))
    console.tick(1.2)
    assert terminal.shown() == f"{CLEAR}launch: loading preprocessing, tensorrt_llm, 1 s"
    console.read(triton("successfully loaded 'preprocessing'"))
    console.say("model preprocessing is ready (1.9 s)")
    assert terminal.shown() == f"{CLEAR}launch: model preprocessing is ready (1.9 s)\n"
    console.tick(2.6)
    assert terminal.shown() == f"{CLEAR}launch: loading tensorrt_llm, 3 s"
    console.end_loading()
    console.tick(3.0)
    assert terminal.shown() == CLEAR


@pytest.mark.parametrize(
    "line",
    [
        b"(EngineCore pid=7) Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01]",
        b"Loading weights:  50%|#####     | 136/272 [00:01<00:02, 80.1it/s]\r",
        b"Loading weights concurrently: 50%|#####     | 1/2\r",
    ],
)
def test_the_weights_that_an_engine_reports_are_shown(terminal: Terminal, line: bytes) -> None:
    console = Console(terminal.stream, quiet=True)
    console.read(triton("loading: tensorrt_llm:1"))
    console.read(line)
    console.tick(7)
    assert terminal.shown().endswith("launch: loading tensorrt_llm, 7 s, 50 % of the weights")


def test_the_live_line_fits_the_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    console = Console(terminal.stream, quiet=True)
    console.read(triton("loading: tensorrt_llm:1"))
    console.tick(7)
    assert terminal.shown() == f"{CLEAR}launch: loading ten"


def test_elsewhere_there_is_no_live_line(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    shows_the_log = Console(terminal.stream, quiet=False)
    monkeypatch.setenv("TERM", "dumb")
    for console in (Console(file, quiet=True), shows_the_log, Console(terminal.stream, quiet=True)):
        console.read(triton("loading: tensorrt_llm:1"))
        if console is not shows_the_log:
            console.tick(7)
        console.say("ready")
    shows_the_log.tick(7)
    assert file.getvalue() == "launch: ready\n"
    assert terminal.shown() == "launch: ready\n" * 2


@pytest.mark.parametrize(
    "line",
    [
        b'W1128 17:50:02.333401 12976 logs.py:25] "the engine\'s stream has no key"\n',
        b'[0] E1128 17:50:02.333401 12976 logs.py:25] "the engine\'s stream has no key"',
        b"2026-11-28T17:50:02Z W 12976 logs.py:25] the engine's stream has no key\n",
    ],
)
def test_warnings_of_this_packages_models_are_shown(line: bytes) -> None:
    for quiet in (True, False):  # otherwise the log shows them
        file = io.StringIO()
        Console(file, quiet=quiet).read(line)
        warning = "launch: warning: the engine's stream has no key\n"
        assert file.getvalue() == (warning if quiet else "")


def test_a_warning_does_not_control_the_terminal() -> None:
    file = io.StringIO()
    Console(file, quiet=True).read(b'W1128 17:50:02.333401 12976 logs.py:25] "role \x1b[2Jx\r"\n')
    assert file.getvalue() == "launch: warning: role ?[2Jx?\n"


def test_other_lines_are_not_shown() -> None:
    file = io.StringIO()
    console = Console(file, quiet=True)
    console.read(b'I1128 17:50:02.333401 12976 logs.py:25] "tokenizer type auto"\n')
    console.read(b'E1128 17:49:59.237623 12976 server.cc:241] "CudaDriverHelper has not"\n')
    assert file.getvalue() == ""


def test_a_terminal_that_is_gone_is_no_error() -> None:
    class Gone(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    for stream in (Gone(), None):
        Console(stream, quiet=True).say("ready")
