"""Processes on this host: find, kill and collect descendants; signals between parent and child.

Standard library only, because the rank agent imports it with ``python -I -S``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from trt_tokenizers.streams.process_stat import is_running, read_stat
from trt_tokenizers.streams.stream_folder import stream_folder

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl
#: Seconds to wait for killed processes. A process that hangs in a driver may never end.
_KILL_WAIT = 10.0
#: Bytes. Triton's HTTP threads need about 60 for each level of nested JSON; a form-typed body of
#: 4.2 MB, JSON nested a million deep and a chunked body of 600,000 chunks overflow the usual 8 MB.
_STACK, _SMALL_STACK = 4 << 30, 256 << 20


def _process_ids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def children(pid: int) -> list[int]:
    """Process ids of the direct children of *pid*, zombies included; empty if *pid* is gone."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # this thread has ended
                found.extend(int(p) for p in (task / "children").read_text().split())
    except OSError:  # the process has ended, or the kernel lacks CONFIG_PROC_CHILDREN
        return [p for p in _process_ids() if (stat := read_stat(p)) and stat.parent == pid]
    return found


def descendants(pid: int) -> set[int]:
    """Process ids of all descendants of *pid*."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        new = [p for p in children(waiting.pop()) if p not in found]
        found.update(new)
        waiting.extend(new)
    return found


def running_with(text: str) -> set[int]:
    """Process ids of this host whose command line contains *text*; no zombies."""
    found = set()
    for pid in _process_ids():
        with contextlib.suppress(OSError):  # it has ended
            if os.fsencode(text) in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def runs(pid: int, name: str) -> bool:
    """Whether the program of the process has this name."""
    with contextlib.suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/comm").read_text() == f"{name}\n"
    return False


def any_running(name: str) -> bool:
    """Whether a program of this name runs on this host; zombies do not count."""
    return any(runs(pid, name) and is_running(pid) for pid in _process_ids())


def kill_all_beneath(pid: int) -> set[Path]:
    """Kill every descendant of *pid*, which must be this process, and wait until they are gone.

    Orphans must be adopted (`adopt_orphans`): then no child left means no descendant left.

    Returns:
        The stream folder of each killed process, as if each were a tritonserver.
    """
    folders: set[Path] = set()
    deadline = time.monotonic() + _KILL_WAIT
    while time.monotonic() < deadline:
        victims = descendants(pid)
        # Record names before killing: another process may reap the victim, and its /proc entry
        # vanishes.
        folders.update(map(stream_folder, victims))
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return folders
        time.sleep(0.01)
    return folders


def reap(folders: set[Path]) -> dict[int, int]:
    """Collect the dead children, adopted ones too.

    Args:
        folders: the existing stream folders of the dead children are added to it.

    Returns:
        Process id -> return code.
    """
    dead = {}
    with contextlib.suppress(ChildProcessError):
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            folder = stream_folder(found.si_pid)  # its name needs the zombie's /proc entry
            if folder.exists():
                folders.add(folder)
            dead[found.si_pid] = os.waitstatus_to_exitcode(os.waitpid(found.si_pid, 0)[1])
    return dead


def start(
    argv: Sequence[str], env: Mapping[str, str], copy: Callable[[int, int], None]
) -> tuple[subprocess.Popen[bytes], list[threading.Thread]]:
    """Start a program in a session of its own. The kernel kills it when this process dies.

    Call it in the main thread: the kernel sends the signal when the *thread* that forks ends.

    Args:
        copy: called in a thread for each of its outputs: file descriptor, 0 for stdout or 1 for
            stderr.

    Returns:
        The process and the two threads.

    Raises:
        OSError: *argv* cannot be run.
    """
    process = subprocess.Popen(
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a terminal's Ctrl-C must reach the launcher only
        preexec_fn=die_with_parent(os.getpid()),  # noqa: PLW1509 - it imports and locks nothing
    )
    threads = []
    for number, source in enumerate((process.stdout, process.stderr)):
        assert source is not None
        threads.append(threading.Thread(target=copy, args=(source.fileno(), number), daemon=True))
        threads[-1].start()
    return process, threads


def die_with_parent(parent: int) -> Callable[[], None]:
    """What a child of the process *parent* does before exec so that the kernel kills it with it."""

    def before_exec() -> None:
        signal_on_parents_death(signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)

    return before_exec


def signal_on_parents_death(number: int) -> None:
    """Have the kernel send signal *number* to this process when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own parent."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def wake_on(numbers: Iterable[int]) -> int:
    """A file descriptor that receives one byte, the signal's number, for each of these signals.

    Each signal gets a handler. SIG_IGN does not work here: started programs would inherit it.
    """
    awake, wake = os.pipe()
    for end in (awake, wake):
        os.set_blocking(end, False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake)
    return awake


def raise_stack_limit() -> str | None:
    """Give the programs that this process starts, and their threads, large stacks.

    Stacks take address space, and memory only as they grow.

    Returns:
        What the user should do if this host forbids it, or None.
    """
    with contextlib.suppress(OSError):
        if Path("/proc/sys/vm/overcommit_memory").read_text() == "2\n":  # stacks count as used
            return (
                "vm.overcommit_memory is 2, so stacks must stay small, and a large or nested HTTP "
                "body can crash the server; limit bodies to 2 MB in a proxy before it"
            )
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    # The kernel refuses a stack of more than all memory.
    wanted = min(_STACK, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    # Without a limit, glibc gives threads 2 MB.
    if soft == resource.RLIM_INFINITY or soft < allowed:
        resource.setrlimit(resource.RLIMIT_STACK, (allowed, hard))
    if allowed >= min(wanted, _SMALL_STACK):
        return None
    return (
        f"the hard limit of the stack is {hard >> 10} KB, so a large or nested HTTP body can "
        f"crash the server; raise it to {wanted >> 10} KB (ulimit -Hs) before the start"
    )


def open_standard_streams() -> None:
    """Open /dev/null as each closed standard stream, so that no other file gets its number."""
    with contextlib.suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        os.close(number)
