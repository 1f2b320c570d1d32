"""Ends a model's process, or the server that it belongs to."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

from trt_tokenizers.streams.process_stat import handles

logger = logging.getLogger(__name__)

_POLL_S = 0.05  # between checks whether the server handles SIGTERM


def end_process(reason: str) -> None:
    """End this process, which runs a Triton model.

    Triton reports a model without a process as not ready, but one with a dead engine as ready.
    """
    logger.error("ending the model's process: %s", reason)
    os._exit(1)


def end_server_once_loaded() -> None:
    """Make this process's tritonserver, that of a follower, end with exit code 0; return at once.

    While a server loads its models, SIGTERM kills it, and MPI treats a rank killed by a signal as
    failed. Therefore wait until /proc shows that the server handles the signal.
    """
    server = os.getppid()

    def end() -> None:
        while os.getppid() == server and not handles(server, signal.SIGTERM):
            time.sleep(_POLL_S)
        if os.getppid() == server:  # otherwise it has ended, and its process id may be reused
            logger.info("ending this rank's server: the leader has stopped")
            os.kill(server, signal.SIGTERM)

    threading.Thread(target=end, name="end-server", daemon=True).start()
