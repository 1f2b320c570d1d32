"""Rank and size from the variables of an MPI, without initializing MPI, like the real module."""

import os


def global_mpi_rank() -> int:
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))


def global_mpi_size() -> int:
    return int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
