"""This package's log lines -> Triton's log."""

from __future__ import annotations

import logging
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
