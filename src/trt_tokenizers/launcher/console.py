"""What a launch shows on the terminal: its own lines, and one line that says what still loads."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from typing import TextIO

_LOADING = re.compile(rb"\bloading: (?P<model>[^\s:\"]+):\d+")
_LOADED = re.compile(rb"successfully loaded '(?P<model>[^']+)'")
#: The progress bars of vLLM, TensorRT-LLM's LLM API and transformers.
_WEIGHTS = re.compile(rb"Loading [^:%|]{1,60}: +(?P<percent>\d{1,3})%")
#: A warning or an error of this package's models, which `logs` writes.
_OURS = re.compile(rb"(?:^|\s)[WE](?:\d{4} \S+)? \d+ logs\.py:\d+\] \"?(?P<text>.*?)\"?\s*$")
_CLEAR = "\r\033[K"
_LONGEST = 400  # characters of a warning


class Console:
    """Writes the launcher's lines; threads may call it.

    Args:
        stream: standard error; None if it is closed.
        quiet: the servers' output goes to a file, so their warnings are shown here, and on a
            terminal the last line says what loads.
    """

    def __init__(self, stream: TextIO | None, *, quiet: bool) -> None:
        self._stream = stream
        self._quiet = quiet
        terminal = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
        self._live = quiet and terminal
        self._loading: dict[str, None] = {}
        self._weights = ""
        self._shown = ""  # the live line
        self._lock = threading.RLock()

    def say(self, line: str) -> None:
        """Write one line of the launcher."""
        self.show(f"launch: {line}")

    def show(self, line: str) -> None:
        """Write one line as it is, for example to be pasted."""
        with self._lock:
            self._write(f"{_CLEAR if self._shown else ''}{line}\n")
            self._shown = ""

    def read(self, line: bytes) -> None:
        """Take one line of the servers' output."""
        if not self._quiet:
            return
        with self._lock:
            if found := _LOADING.search(line):
                self._loading[found["model"].decode(errors="replace")] = None
            elif found := _LOADED.search(line):
                self._loading.pop(found["model"].decode(errors="replace"), None)
            elif found := _WEIGHTS.search(line):
                self._weights = f", {int(found['percent'])} % of the weights"
            elif found := _OURS.search(line):
                # The text may quote a request, which must not control the terminal.
                text = found["text"].decode(errors="replace")[:_LONGEST]
                self.say(f"warning: {''.join(c if c.isprintable() else '?' for c in text)}")

    def tick(self, seconds: float) -> None:
        """Show what loads, *seconds* after the start."""
        with self._lock:
            if self._live and self._loading:
                text = f"launch: loading {', '.join(self._loading)}, {seconds:.0f} s{self._weights}"
                columns = shutil.get_terminal_size().columns or 80  # Python 3.10: 0 if unknown
                text = text[: columns - 1]
                if text != self._shown:
                    self._write(_CLEAR + text)
                    self._shown = text

    def end_loading(self) -> None:
        """Show nothing more about loading."""
        with self._lock:
            self._loading.clear()
            if self._shown:
                self._write(_CLEAR)
                self._shown = ""

    def _write(self, text: str) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # the reader may be gone
                self._stream.write(text)
                self._stream.flush()
