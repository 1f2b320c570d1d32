"""Leader mode: rank 0 submits tasks to the other ranks, which wait in an MPICommExecutor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class MPINodeState:
    """What session.shutdown() keeps running for the next session, from 1.2 on."""

    _global_comm_executor: Any = None
    _global_mpi_pool: Any = None


class MpiCommSession:
    def __init__(self, comm: Any = None, n_workers: int = 1) -> None:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor

        self.comm = comm or MPI.COMM_WORLD
        self.n_workers = n_workers
        if self.comm.Get_rank() != 0:
            raise RuntimeError(
                f"only rank 0 can start multi-node session, got {self.comm.Get_rank()}"
            )
        if self.comm.Get_size() != n_workers:
            raise ValueError(
                "n_workers must be equal to the number of processes in MPI, "
                f"got {n_workers} vs {self.comm.Get_size()}"
            )
        self.thread_pool: Any = ThreadPoolExecutor(max_workers=2)
        if MPINodeState._global_comm_executor is None:
            MPINodeState._global_comm_executor = MPICommExecutor(self.comm)
            MPINodeState._global_mpi_pool = MPINodeState._global_comm_executor.__enter__()
        self.mpi_pool: Any = MPINodeState._global_mpi_pool

    def submit(self, task: Callable[..., Any], *args: Any) -> list[Any]:
        first = self.thread_pool.submit(task, *args)
        return [first, *(self.mpi_pool.submit(task, *args) for _ in range(self.n_workers - 1))]

    def shutdown(self, wait: bool = True) -> None:
        self.mpi_pool = None
        if self.thread_pool is not None:
            self.thread_pool.shutdown(wait=wait)
            self.thread_pool = None
