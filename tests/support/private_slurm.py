"""A complete Slurm in its own folder, on this machine or on two simulated hosts.

Needs root (slurmd switches to the user of each job) and Debian's slurm-wlm, munge and libpmix-dev,
which contains the libpmix.so that ``srun --mpi=pmix`` opens. Nodes on one machine need separate
TmpFS folders, because the PMIx plugin names its folder in it after job and step only.
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
from two_hosts import TwoHosts

_PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "squeue")
_SBIN = "/usr/sbin:/sbin"  # not on every user's PATH

_CONF = """\
ClusterName=tests
SlurmctldHost={first}({address})
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n-spool
TmpFS={folder}/%n-tmp
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n-slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why Slurm cannot run, with the fix, or None."""
    if os.geteuid() != 0:
        return "a private Slurm needs root, for slurmd; run the tests as root"
    path = f"{os.environ['PATH']}:{_SBIN}"
    programs = [name for name in _PROGRAMS if shutil.which(name, path=path) is None]
    if programs:
        return f"no {', '.join(programs)}; apt-get install slurm-wlm munge libpmix-dev"
    if not any(Path("/usr/lib").glob("*/libpmix.so")):
        return "no libpmix.so, which srun --mpi=pmix opens; apt-get install libpmix-dev"
    return None


@contextlib.contextmanager
def private_slurm(folder: Path, hosts: TwoHosts | None = None) -> Iterator[dict[str, str]]:
    """Run Slurm in *folder* until the block ends.

    Args:
        folder: empty, owned by root, with a short path (it contains munge's socket).
        hosts: the nodes, controlled by the first; by default this machine is the only node.

    Yields:
        The environment of srun, sbatch and the other commands for this Slurm, on one of its nodes.
    """
    ctld_port, slurmd_port = free_ports(2)
    names = hosts.namespaces if hosts else (socket.gethostname().partition(".")[0],)
    addresses = hosts.addresses if hosts else ("127.0.0.1",)
    for name in ("state", *(f"{n}-{kind}" for n in names for kind in ("spool", "tmp"))):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(
        _CONF.format(
            first=names[0],
            address=addresses[0],
            folder=folder,
            ctld_port=ctld_port,
            slurmd_port=slurmd_port,
            nodes="\n".join(
                f"NodeName={name} NodeAddr={address} CPUs=4 State=UNKNOWN"
                for name, address in zip(names, addresses, strict=True)
            ),
        )
    )
    key = folder / "munge.key"
    key.touch(0o400)
    key.write_bytes(secrets.token_bytes(128))
    # Remove variables of an outer Slurm, which would redirect the commands.
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    environ |= {"SLURM_CONF": str(conf), "PATH": f"{environ['PATH']}:{_SBIN}"}

    def on(index: int, *argv: str) -> list[str]:
        return hosts.argv(index, *argv) if hosts else list(argv)

    def output(*argv: str) -> str:
        done = subprocess.run(
            on(0, *argv), env=environ, capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout.strip()

    # The daemons are stopped in reverse order.
    with contextlib.ExitStack() as daemons:
        files = ("socket", "key-file", "pid-file", "log-file", "seed-file")
        munge = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in files]
        daemons.enter_context(
            _daemon(["munged", "--foreground", "--force", *munge], environ, folder / "munged.out")
        )
        _wait(lambda: (folder / "munge.socket").exists(), folder, "munge.socket")
        controller = on(0, "slurmctld", "-D", "-f", str(conf))
        daemons.enter_context(_daemon(controller, environ, folder / "slurmctld.out"))
        for index, name in enumerate(names):
            node = on(index, "slurmd", "-D", "-f", str(conf), "-N", name)
            daemons.enter_context(_daemon(node, environ, folder / f"{name}.out"))
        ready = f"idle {len(names)}"
        _wait(lambda: output("sinfo", "-h", "-o", "%T %D") == ready, folder, f"{ready} nodes")
        try:
            yield environ
        finally:
            output("scancel", "--user=root")
            with contextlib.suppress(AssertionError):  # stop the daemons in any case
                _wait(lambda: not output("squeue", "-h"), folder, "end of all jobs")


@contextlib.contextmanager
def _daemon(argv: list[str], environ: dict[str, str], output: Path) -> Iterator[None]:
    with output.open("wb") as log:
        process = subprocess.Popen(
            argv,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C must not stop it before its jobs
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


def _wait(condition: Callable[[], object], folder: Path, what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        logs = "\n".join(f"{p.name}: {p.read_text()[-1500:]}" for p in folder.glob("*.out"))
        assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s\n{logs}"
        time.sleep(0.1)
