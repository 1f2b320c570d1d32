"""Which rank of a parallel model this process is, and where the ranks meet.

Pure: an environment in, facts out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trt_tokenizers.errors import SettingsError


@dataclass(frozen=True)
class Rank:
    """One process of a parallel model.

    Attributes:
        index: 0 is the leader, which serves the requests.
        size: how many ranks there are.
        local_index: which of the ranks on its node it is; its GPU has this number among the
            visible ones.
        source: who says so, for error messages.
    """

    index: int = 0
    size: int = 1
    local_index: int = 0
    source: str = "no MPI variables"


@dataclass(frozen=True)
class _Variables:
    """How one launcher tells a process its rank: names of environment variables."""

    launcher: str
    index: str
    size: str
    local: tuple[str, ...]


#: In the order of trust. mpirun starts its ranks through srun where it can, so Slurm's variables
#: are there as well, and then tell of mpirun's own helpers.
_LAUNCHERS = (
    _Variables(
        "Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("OMPI_COMM_WORLD_LOCAL_RANK",)
    ),
    # PMI alone does not tell the place on the node; srun --mpi=pmi2 leaves it to Slurm's variable.
    _Variables(
        "PMI", "PMI_RANK", "PMI_SIZE", ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "SLURM_LOCALID")
    ),
    # Of the step, which srun makes. SLURM_NTASKS is that of the job: a batch script has it too,
    # with SLURM_PROCID 0, and runs one process.
    _Variables("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ("SLURM_LOCALID",)),
)

#: Slurm's numbers from here on are the batch script, the interactive shell and the like.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0


def read_rank(environ: Mapping[str, str]) -> Rank:
    """The rank of this process by the variables of Open MPI, of PMI (MPICH, Intel MPI, Slurm's
    pmi2) or of a Slurm step; a process that none of them started is the only one.

    Raises:
        SettingsError: the variables contradict each other.
    """
    for names in _LAUNCHERS:
        if names.index not in environ or names.size not in environ:
            continue
        if names.launcher == "Slurm" and not _in_real_step(environ):
            continue
        index, size = (_number(environ, name) for name in (names.index, names.size))
        source = f"{names.launcher}'s {names.index} and {names.size}"
        if not index < size:
            raise SettingsError(
                f"{names.index} is {index} and {names.size} is {size}; unset both, "
                "or start the ranks with launch_server --world-size N"
            )
        local = next((_number(environ, name) for name in names.local if name in environ), None)
        if local is None:
            if size > 1:
                raise SettingsError(
                    f"{source} tell of {size} ranks, but none of {', '.join(names.local)} tells "
                    f"which one on its node this is; set {names.local[0]}"
                )
            local = 0
        return Rank(index, size, local, source)
    return Rank()


def _in_real_step(environ: Mapping[str, str]) -> bool:
    step = environ.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < _FIRST_SPECIAL_STEP


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ[name]
    if not value.isdecimal():
        raise SettingsError(f"{name} is {value!r}; it must be a whole number, or unset")
    return int(value)


def meeting_point(environ: Mapping[str, str], rank: Rank) -> tuple[str, int]:
    """Address and port on which the leader waits for the other ranks.

    Raises:
        SettingsError: MASTER_ADDR or MASTER_PORT is missing or cannot be one.
    """
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]
    if missing:
        raise SettingsError(
            f"{rank.source} make this rank {rank.index} of {rank.size}, but "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set; "
            f"start it with launch_server --world-size {rank.size}"
        )
    port = environ["MASTER_PORT"]
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise SettingsError(f"MASTER_PORT is {port!r}; it must be a port from 1 to 65535")
    return environ["MASTER_ADDR"], int(port)
