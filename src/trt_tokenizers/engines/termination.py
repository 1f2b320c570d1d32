"""The end of a model's process, and of the server that it belongs to."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

logger = logging.getLogger(__name__)

_LOOK_S = 0.05  # between looks at whether the server can be ended


def end_process(reason: str) -> None:
    """End this process, a Triton model's. A model whose process is gone is not ready; one whose
    engine is dead would stay so."""
    logger.error("ending the model's process: %s", reason)
    os._exit(1)


def end_server_once_loaded() -> None:
    """Have the tritonserver of this model's process end with exit code 0; returns at once.

    For a rank that serves nothing. Until a server has loaded its models SIGTERM kills it, and MPI
    takes a rank that a signal has killed for one that has failed. From then on it handles the
    signal, and the kernel shows that.
    """
    server = os.getppid()

    def end() -> None:
        while os.getppid() == server and not handles(server, signal.SIGTERM):
            time.sleep(_LOOK_S)
        if os.getppid() == server:  # else it has ended by itself, and its number may be another's
            logger.info("ending this rank's server: the leader has stopped")
            os.kill(server, signal.SIGTERM)

    threading.Thread(target=end, name="end-server", daemon=True).start()


def handles(pid: int, number: int) -> bool:
    """Whether the process has a handler for this signal; False if there is no such process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
