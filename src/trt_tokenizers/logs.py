"""Where this package's log lines go: to Triton's log, or to a command's user."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

_LOGGER = logging.getLogger("trt_tokenizers")


class _Handler(logging.Handler):
    """Calls a function with the level and the text of each log line."""

    def __init__(self, write: Callable[[int, str], Any]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(record.levelno, self.format(record))


def send_to(log: Any) -> None:
    """Send log lines to *log*: Triton's class Logger, or one like it. Later calls do nothing."""

    def write(level: int, text: str) -> None:
        if level >= logging.ERROR:
            log.log_error(text)
        elif level >= logging.WARNING:
            log.log_warn(text)
        else:
            log.log_info(text)

    if not any(isinstance(handler, _Handler) for handler in _LOGGER.handlers):
        _LOGGER.addHandler(_Handler(write))
        _LOGGER.setLevel(logging.INFO)
        _LOGGER.propagate = False


@contextlib.contextmanager
def redirect_to(write: Callable[[str], None]) -> Iterator[None]:
    """Call *write* with each line that a server's log would show, until the block ends."""
    handler = _Handler(lambda _, text: write(text))
    before = _LOGGER.level, _LOGGER.propagate
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(before[0])
        _LOGGER.propagate = before[1]
