"""A whole Slurm of one node in a folder of its own: munged, slurmctld and slurmd, on free ports.

Needs root (slurmd changes to the user of each job) and Debian's slurm-wlm, munge and libpmix-dev;
the last one brings the libpmix.so that ``srun --mpi=pmix`` opens.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import free_ports

_PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "squeue")
_SBIN = "/usr/sbin:/sbin"  # not on everybody's PATH

_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here, with the mend, or None."""
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root, for slurmd; run the tests as root"
    path = f"{os.environ['PATH']}:{_SBIN}"
    programs = [name for name in _PROGRAMS if shutil.which(name, path=path) is None]
    if programs:
        return f"no {', '.join(programs)} here; apt-get install slurm-wlm munge libpmix-dev"
    if not any(Path("/usr/lib").glob("*/libpmix.so")):
        return "no libpmix.so here, which srun --mpi=pmix opens; apt-get install libpmix-dev"
    return None


@contextlib.contextmanager
def one_node_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Run Slurm in *folder* until the block ends.

    Args:
        folder: empty, of root, with a short path (munge's socket is in it).

    Yields:
        The environment in which srun, sbatch and the like talk to this Slurm.
    """
    ctld_port, slurmd_port = free_ports(2)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(
        _CONF.format(host=host, folder=folder, ctld_port=ctld_port, slurmd_port=slurmd_port)
    )
    key = folder / "munge.key"
    key.touch(0o400)
    key.write_bytes(secrets.token_bytes(128))
    # Variables of a Slurm that the tests may run in would lead the commands there.
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    environ |= {"SLURM_CONF": str(conf), "PATH": f"{environ['PATH']}:{_SBIN}"}
    # The last one is ended first.
    with contextlib.ExitStack() as daemons:
        files = ("socket", "key-file", "pid-file", "log-file", "seed-file")
        munge = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in files]
        for argv in (
            ["munged", "--foreground", "--force", *munge],
            ["slurmctld", "-D", "-f", str(conf)],
            ["slurmd", "-D", "-f", str(conf), "-N", host],
        ):
            daemons.enter_context(_daemon(argv, environ, folder))
            if argv[0] == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), folder, "munge.socket")
        _wait(lambda: "idle" in _output(["sinfo", "-h", "-o", "%T"], environ), folder, "idle node")
        try:
            yield environ
        finally:
            _output(["scancel", "--user=root"], environ)
            with contextlib.suppress(AssertionError):  # the daemons have to be ended all the same
                _wait(lambda: not _output(["squeue", "-h"], environ), folder, "end of all jobs")


@contextlib.contextmanager
def _daemon(argv: list[str], environ: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{argv[0]}.out").open("wb") as log:
        process = subprocess.Popen(
            argv,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at the tests must not end it before its jobs
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _output(argv: list[str], environ: dict[str, str]) -> str:
    done = subprocess.run(
        argv, env=environ, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout.strip()


def _wait(condition: Callable[[], object], folder: Path, what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        logs = "\n".join(f"{p.name}: {p.read_text()[-1500:]}" for p in folder.glob("*.out"))
        assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s\n{logs}"
        time.sleep(0.1)
