"""The relay: under MPI, the parent of a rank agent's worker. It forwards signals to the worker.

Standard library only, because the rank agent imports it with ``python -I -S``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

from trt_tokenizers.launcher import process_tree
from trt_tokenizers.launcher.rank_protocol import RankCommand, RankEvent
from trt_tokenizers.launcher.shared_memory import sweep

#: The kernel sends it when the parent dies. It also sends it when only the parent's thread that
#: forked ends; then the parent id is unchanged and the signal is ignored.
PARENT_DIED = signal.SIGHUP
SIGNALS = (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM, PARENT_DIED)


def fork_worker(command: RankCommand, rank: int) -> None:
    """Fork, and return in the child, the worker. The parent becomes the relay: it forwards signals,
    cleans up after the worker, and exits with the worker's exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until both have their handlers
    relay, parent = os.getpid(), os.getppid()
    worker = os.fork()
    if worker == 0:
        os.setsid()
        process_tree.signal_on_parents_death(signal.SIGKILL)  # until the worker changes it
        if os.getppid() != relay:
            os._exit(1)
        return
    process_tree.adopt_orphans()
    process_tree.signal_on_parents_death(PARENT_DIED)

    def forward(number: int, _: object) -> None:
        if number == PARENT_DIED:
            if os.getppid() == parent:
                return
            number = signal.SIGTERM
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, number)

    for number in SIGNALS:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    clean_up(command, rank, process_tree.kill_all_beneath(os.getpid()), parent)
    if code < 0:  # The worker could not report its end, and Hydra would keep the other ranks.
        code, how = 128 - code, signal.Signals(-code).name
        text = "the agent of the rank was killed"
        end = RankEvent(rank, "ended", host=socket.gethostname(), text=text, code=code, how=how)
        with contextlib.suppress(OSError):
            os.write(2, end.to_line(command.mark))
    os._exit(code)


def clean_up(command: RankCommand, rank: int, folders: set[Path], parent: int) -> None:
    """Remove the rank's files; those of the whole launch if *parent* is no longer the parent."""
    orphaned = os.getppid() != parent
    sweep(command.launch_prefix if orphaned else command.shm_prefix_of(rank), folders)
