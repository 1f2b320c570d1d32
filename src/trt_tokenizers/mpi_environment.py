"""The environment variables of MPI: this process's rank, and the address where the ranks meet.

Pure: the functions take an environment.
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
        size: the number of ranks.
        local_index: number of the rank on its node, and of its GPU among the visible ones.
        source: the variables that gave the rank, for error messages.
    """

    index: int = 0
    size: int = 1
    local_index: int = 0
    source: str = "no MPI variables"


@dataclass(frozen=True)
class RankVariables:
    """The environment variables in which one kind of MPI gives a process its rank.

    Attributes:
        owner: who sets the variables, for error messages.
        index: variable of the rank.
        size: variable of the number of ranks.
        local: variables of the rank's number on its node; the first one that is set counts.
    """

    owner: str
    index: str
    size: str
    local: tuple[str, ...]


#: ``--mpi`` of launch_server -> variables, the most trusted first. mpirun may start its daemons
#: through srun, so its ranks can inherit Slurm's variables, which then describe the daemons.
RANK_VARIABLES = {
    "openmpi": RankVariables(
        "Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("OMPI_COMM_WORLD_LOCAL_RANK",)
    ),
    # PMI alone does not give the number on the node; srun --mpi=pmi2 gives it in Slurm's variable.
    "mpich": RankVariables(
        "PMI", "PMI_RANK", "PMI_SIZE", ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "SLURM_LOCALID")
    ),
    # The size is that of the step, which srun creates. SLURM_NTASKS is that of the job: a batch
    # script, which is one process, has it too, with SLURM_PROCID 0.
    "slurm": RankVariables("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ("SLURM_LOCALID",)),
}

#: Slurm uses step ids from here on for batch scripts, interactive shells and similar.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0


def read_rank(environ: Mapping[str, str]) -> Rank:
    """The rank of this process, from the variables of Open MPI, PMI (MPICH, Intel MPI, Slurm's
    pmi2) or a Slurm step. Without any of them the process is the only rank.

    Raises:
        SettingsError: the variables contradict each other.
    """
    for names in RANK_VARIABLES.values():
        if names.index not in environ or names.size not in environ:
            continue
        if names.owner == "Slurm" and not _in_real_step(environ):
            continue
        index, size = (_number(environ, name) for name in (names.index, names.size))
        source = f"{names.owner}'s {names.index} and {names.size}"
        if not index < size:
            raise SettingsError(
                f"{names.index} is {index} and {names.size} is {size}; unset both, "
                "or start the ranks with launch_server --world-size N"
            )
        local = next((_number(environ, name) for name in names.local if name in environ), None)
        if local is None:
            if size > 1:
                raise SettingsError(
                    f"{source} give {size} ranks, but none of {', '.join(names.local)} gives the "
                    f"number of this rank on its node; set {names.local[0]}"
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
        SettingsError: MASTER_ADDR or MASTER_PORT is missing or invalid.
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
