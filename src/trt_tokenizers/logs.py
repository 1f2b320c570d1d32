"""This package's log lines -> Triton's log, or a command's user."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any


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
    """Send them to *log*, Triton's class Logger or one like it; once per process is enough."""
    logger = logging.getLogger("trt_tokenizers")
    if not any(isinstance(handler, _TritonHandler) for handler in logger.handlers):
        logger.addHandler(_TritonHandler(log))
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _Teller(logging.Handler):
    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(self.format(record))


@contextlib.contextmanager
def redirect_to(tell: Callable[[str], None]) -> Iterator[None]:
    """Call *tell* with each of them meanwhile, those that a server's log would have included."""
    logger, handler = logging.getLogger("trt_tokenizers"), _Teller(tell)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
