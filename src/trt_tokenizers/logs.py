"""Where this package's log lines go: to Triton's log, or to a command's user."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

_LOGGER = logging.getLogger("trt_tokenizers")


class _TritonHandler(logging.Handler):
    def __init__(self, log: Any) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            self._log.log_error(text)
        elif record.levelno >= logging.WARNING:
            self._log.log_warn(text)
        else:
            self._log.log_info(text)


def send_to(log: Any) -> None:
    """Send log lines to *log*: Triton's class Logger, or one like it. Later calls do nothing."""
    if not any(isinstance(handler, _TritonHandler) for handler in _LOGGER.handlers):
        _LOGGER.addHandler(_TritonHandler(log))
        _LOGGER.setLevel(logging.INFO)
        _LOGGER.propagate = False


class _CallbackHandler(logging.Handler):
    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self.format(record))


@contextlib.contextmanager
def redirect_to(write: Callable[[str], None]) -> Iterator[None]:
    """Call *write* with each line that a server's log would show, until the block ends."""
    handler = _CallbackHandler(write)
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
