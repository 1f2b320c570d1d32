"""The guardian: runs one command and leaves nothing of it behind on this host, whoever is killed.

A launcher that dies of SIGKILL can clean up nothing, so a small process in a session of its own
stands between it and what it started::

    launcher ──pipe──> guardian ──> [mpirun ──>] rank agent ──> tritonserver ──> Python stubs

The guardian adopts whatever is orphaned beneath it (PR_SET_CHILD_SUBREAPER). When the command has
ended, when it is told to, or when the pipe closes because the launcher is gone, it kills all that
is left beneath it, then removes the servers' shared memory. Should the guardian itself be killed,
the kernel kills the command (PR_SET_PDEATHSIG), the agents notice and end their servers.

Run by its path with ``python -I -S``, so it starts in about 30 ms and needs nothing but the
standard library. Its stdin carries one line of JSON (`Job`), then orders, one a line: ``signal N``
for the command alone, ``kill`` for all. On the file descriptor named by its argument it answers
``started PID``, ``failed REASON`` and ``ended RETURNCODE`` (negative: by that signal). Everything
beneath it is gone when that descriptor closes.

What the rank agent (`trt_tokenizers.launcher.rank_agent`) has in common with it is here too.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))

from trt_tokenizers.streams.stream_folder import SHM, STREAM_FOLDER, stream_folder

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl
#: Seconds to wait for killed processes; one that hangs in a driver cannot be waited for for ever.
_KILL_WAIT = 10.0


@dataclasses.dataclass(frozen=True)
class Job:
    """What the guardian runs, and what it removes afterwards.

    Attributes:
        argv: the command line.
        env: its whole environment.
        shm_prefix: what its servers put into /dev/shm begins with this; not empty.
        remove: paths of other files that end with it.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    shm_prefix: str
    remove: tuple[str, ...] = ()

    def to_line(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"


def children(pid: int) -> list[int]:
    """Process ids of the direct children of *pid*, zombies included; empty if it is gone."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # a thread that ended meanwhile
                found.extend(int(p) for p in (task / "children").read_text().split())
    except OSError:  # gone, or a kernel without CONFIG_PROC_CHILDREN
        return [p for p, parent in _parents() if parent == pid]
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name, in brackets, may hold anything: what counts is behind the last bracket.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                yield int(entry.name), int(fields[1])


def descendants(pid: int) -> set[int]:
    """Process ids of everything beneath *pid*, without it."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        new = [p for p in children(waiting.pop()) if p not in found]
        found.update(new)
        waiting.extend(new)
    return found


def running_with(text: str) -> set[int]:
    """Process ids of this host whose command line holds *text*."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.fsencode(text) in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found


def name_stream_folder(shm_prefix: str, folder: Path) -> None:
    """Let whoever sweeps *shm_prefix* remove *folder* too: who knows it may be killed before."""
    if shm_prefix and folder.parent == SHM:
        with contextlib.suppress(OSError):
            (SHM / f"{shm_prefix}{folder.name}").touch(mode=0o600, exist_ok=False)


def sweep(shm_prefix: str, folders: set[Path], remove: tuple[str, ...] = ()) -> None:
    """Remove what dead servers left: shared memory by prefix, the *folders* of their streams
    (`stream_folder`), those that `name_stream_folder` named, and the files
    *remove*. What is gone is no error."""
    if shm_prefix:
        for path in SHM.glob(shm_prefix + "*"):
            if path.is_dir() and not path.is_symlink():  # an MPI's session
                shutil.rmtree(path, ignore_errors=True)
                continue
            named = STREAM_FOLDER.search(path.name)
            # A name that anybody may have made: ours alone counts, and only such a folder goes.
            with contextlib.suppress(OSError):
                if named and path.lstat().st_uid == os.geteuid():
                    shutil.rmtree(SHM / named[0], ignore_errors=True)
            path.unlink(missing_ok=True)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for name in remove:
        with contextlib.suppress(OSError):
            Path(name).unlink(missing_ok=True)


def kill_all_beneath(pid: int) -> set[Path]:
    """Kill every descendant of *pid*, which is this process, and wait until they are gone.

    Returns:
        The stream folders that those killed would have had as tritonservers.
    """
    folders: set[Path] = set()
    deadline = time.monotonic() + _KILL_WAIT
    while time.monotonic() < deadline:
        victims = descendants(pid)
        # All names first: whoever is killed may be collected, and its name lost, by one beneath.
        folders.update(map(stream_folder, victims))
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return folders  # orphans are adopted, so no child means no descendant
        time.sleep(0.01)
    return folders


def die_with_parent(parent: int) -> Callable[[], None]:
    """What a child calls before exec so that the kernel kills it when *parent* dies."""

    def before_exec() -> None:
        signal_on_parents_death(signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return before_exec


def reap(folders: set[Path]) -> dict[int, int]:
    """Collect the dead children, adopted ones too: process id -> return code.

    Args:
        folders: gets the stream folders that they have left.
    """
    dead = {}
    with contextlib.suppress(ChildProcessError):
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            folder = stream_folder(found.si_pid)  # while it is a zombie
            if folder.exists():
                folders.add(folder)
            dead[found.si_pid] = os.waitstatus_to_exitcode(os.waitpid(found.si_pid, 0)[1])
    return dead


def signal_on_parents_death(number: int) -> None:
    """Have the kernel send signal *number* to this process when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of whatever is orphaned beneath this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def wake_on(numbers: Iterable[int]) -> int:
    """A file descriptor on which each of these signals shows up, as one byte, its number.

    A handler each, and not SIG_IGN, as a program that is started would inherit that.
    """
    awake, wake = os.pipe()
    for end in (awake, wake):
        os.set_blocking(end, False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake)
    return awake


class _Guardian:
    def __init__(self, status: int) -> None:
        self._status = status
        self._orders = b""
        self._command: subprocess.Popen[bytes] | None = None
        self._folders: set[Path] = set()

    def run(self) -> None:
        adopt_orphans()
        # Whoever signals a whole control group (systemd, scancel) must not end the guardian: it
        # ends by its pipe.
        awake = wake_on((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD))

        line = self._next_order()
        while line is None:
            if not self._read_orders():
                return
            line = self._next_order()
        job = Job(**json.loads(line))
        try:
            self._command = subprocess.Popen(
                job.argv,
                env=job.env,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C reaches the launcher alone
                preexec_fn=die_with_parent(os.getpid()),  # noqa: PLW1509 - one thread here
            )
        except OSError as error:
            self._say(f"failed {error.strerror}")
            return
        self._say(f"started {self._command.pid}")
        code = self._watch(awake, self._command.pid)
        self._folders |= kill_all_beneath(os.getpid())
        sweep(job.shm_prefix, self._folders, tuple(job.remove))
        self._say(f"ended {-signal.SIGKILL if code is None else code}")

    def _watch(self, awake: int, pid: int) -> int | None:
        """Carry out orders until the command has ended (its return code) or must (None)."""
        while True:
            code = self._reap(pid)
            if code is not None:
                return code
            ready, _, _ = select.select([0, awake], [], [])
            if awake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(awake, 4096)
            if 0 in ready and not self._read_orders():
                return None
            while (order := self._next_order()) is not None:
                if order == b"kill":
                    return None
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, int(order.split()[1]))

    def _reap(self, pid: int) -> int | None:
        """The command's return code if it has ended."""
        dead = reap(self._folders)
        if pid in dead and self._command is not None:
            self._command.returncode = dead[pid]
        return dead.get(pid)

    def _read_orders(self) -> bool:
        data = os.read(0, 65536)
        self._orders += data
        return bool(data)

    def _next_order(self) -> bytes | None:
        line, newline, rest = self._orders.partition(b"\n")
        if not newline:
            return None
        self._orders = rest
        return line

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the launcher may be gone
            os.write(self._status, line.encode() + b"\n")


if __name__ == "__main__":
    _Guardian(int(sys.argv[1])).run()
