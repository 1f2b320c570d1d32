"""Keeps the health thread of Triton's Python stub from starving. Standard library only.

While Triton waits for a stub, it expects a sign of the stub's health thread within a second. The
thread gives one every 300 ms, but on a busy machine it has been seen to wait 750 ms. Triton gives
up a stub without a sign, although it lives: loading then fails, or answers go to other requests.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

#: The name of the stub's process, as the kernel shortens it.
_STUB = "triton_python_b"


def raise_priority() -> None:
    """Give all threads of a stub but the calling one a real-time priority, if that is permitted.

    Call it before the process has threads with much work. The threads only sleep and signal. Their
    children do not inherit the priority. It needs the capability SYS_NICE.
    """
    process = Path("/proc/self")
    if (process / "comm").read_text().strip() != _STUB:
        return
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    for task in (process / "task").iterdir():
        if int(task.name) != threading.get_native_id():
            with contextlib.suppress(OSError):  # not permitted, or the thread has ended
                os.sched_setscheduler(int(task.name), policy, os.sched_param(1))
