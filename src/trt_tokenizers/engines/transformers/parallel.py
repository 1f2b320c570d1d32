"""The `transformers` engine over several ranks: tensor parallelism through torch.distributed.

Imports torch and transformers' internals, so only a running engine of several ranks imports it.

Every rank holds a slice of each layer and runs the same loop of continuous batching: in each round
the leader's new requests and cancellations are broadcast, and every rank schedules, evicts and ends
the same sequences in the same order. That requires the same token ids on all ranks. Therefore only
the leader chooses: its processors, seeds and log-probabilities are those of a single rank, and the
chosen ids, one per row, are broadcast before any rank continues (`SharedChoice`). The ranks need
not compute equal scores, which no library guarantees.

The launcher ends all ranks when one has ended. Collectives of gloo fail when a peer is gone; those
of NCCL block, and the launcher kills them. The leader's stop ends the loops of all ranks without an
error.
"""

from __future__ import annotations

import contextlib
import copyreg
import os
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import transformers
from transformers.generation.continuous_batching.continuous_api import BackgroundThreadStatus

from trt_tokenizers.engines.base import FinishReason, GenerationRequest
from trt_tokenizers.engines.transformers.sampling import Job, Row, RowProcessor
from trt_tokenizers.errors import EngineError, SettingsError, one_line
from trt_tokenizers.mpi_environment import Rank

_MEET_S = 300.0  # for all ranks to connect; hosts import torch at different speeds
_LOAD_S = 7200.0  # for all ranks to load their slices; hosts read disks at different speeds
#: Seconds for one collective after loading. It is needed only for a peer that runs but hangs. gloo
#: then raises; NCCL's watchdog (TORCH_NCCL_ASYNC_ERROR_HANDLING, on by default) ends the process.
_COLLECTIVE_S = 600.0
#: What the leader broadcasts in place of a token.
_FAILED, _ENDED = -1, -2
_PART_S = 10.0  # seconds that the leader waits until the others have disconnected


class Group:
    """This process as one rank of a model, connected to the others by the leader's store."""

    def __init__(self, rank: Rank, address: tuple[str, int], device: str) -> None:
        """Connect to the other ranks and set torch.distributed up; return when all are connected.

        Args:
            address: MASTER_ADDR and MASTER_PORT.
            device: ``cpu`` or ``cuda``.

        Raises:
            SettingsError: this rank has no GPU.
            EngineError: as in `meet`.
        """
        if device == "cuda":
            _check_gpu(rank)
        self.rank = rank
        self._store = meet(rank, address, device)
        # For transformers.
        os.environ["RANK"] = str(rank.index)
        os.environ["WORLD_SIZE"] = str(rank.size)
        os.environ["LOCAL_RANK"] = str(rank.local_index)
        os.environ.setdefault("NCCL_GRAPH_MIXING_SUPPORT", "0")
        cuda = device == "cuda"
        if cuda:
            torch.cuda.set_device(rank.local_index)
        dist.init_process_group(
            backend="nccl" if cuda else "gloo",
            store=self._store,
            rank=rank.index,
            world_size=rank.size,
            timeout=timedelta(seconds=_COLLECTIVE_S),
            device_id=torch.device("cuda", rank.local_index) if cuda else None,
        )

    def wait_until_loaded(self) -> None:
        """Wait until all ranks have loaded their slices, before the first collective.

        Raises:
            EngineError: the leader has ended.
        """
        try:
            self._store.set(f"loaded-{self.rank.index}", "")
            self._store.wait(_keys("loaded", self.rank), timedelta(seconds=_LOAD_S))
        except RuntimeError as error:
            raise EngineError(f"a rank has not loaded its slice: {one_line(error)}") from error

    def processor(self, manager: Any) -> RowProcessor:
        """The one logits processor of this rank's *manager*."""
        return SharedChoice(manager.distributed_helper)

    def prepare(self, manager: Any) -> None:
        """Put our parts into a new manager, before it starts."""
        if self.rank.index > 0:
            manager._wake_up_loop = _Awake()
        manager._handle_critical_error = lambda error, processor: _fail(manager, error, processor)

    def part(self, manager: Any) -> None:
        """Disconnect, after the leader's stop has ended the generation loop of all ranks."""
        # A peer may be faster, and then the clean-up of NCCL and gloo fails without harm.
        with contextlib.suppress(Exception):
            manager.distributed_helper.destroy_cpu_comm_group()
            dist.destroy_process_group()
        with contextlib.suppress(RuntimeError):
            self._store.set(f"parted-{self.rank.index}", "")
            if self.rank.index == 0:  # its store ends with it
                self._store.wait(_keys("parted", self.rank), timedelta(seconds=_PART_S))


def meet(rank: Rank, address: tuple[str, int], device: str, timeout: float = _MEET_S) -> Any:
    """Connect to the leader's store and check that all ranks run the same versions.

    Args:
        address: the leader's store listens there, and nowhere else.
        timeout: seconds for all ranks to connect.

    Raises:
        EngineError: a rank did not connect, or runs other versions. The leader names it.
    """
    where = f"MASTER_ADDR {address[0]}, MASTER_PORT {address[1]}"
    listener = _listener(address, where) if rank.index == 0 else None
    facts = (
        f"{rank.size} ranks on {device}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            *address,
            is_master=listener is not None,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout),
            # By itself the store would listen on all addresses.
            master_listen_fd=listener.detach() if listener is not None else None,
        )
        store.set(f"facts-{rank.index}", facts)
        keys = _keys("facts", rank)
        # The leader gives up first, and its store ends with it.
        store.wait(keys, timedelta(seconds=timeout + (_PART_S if rank.index else 0)))
        found = [store.get(key).decode() for key in keys]
    except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError
        if rank.index == 0:
            absent = [str(i) for i in range(1, rank.size) if not store.check([f"facts-{i}"])]
            raise EngineError(
                f"rank {', '.join(absent)} of {rank.size} did not connect to {where}; see the "
                "ranks' logs"
            ) from error
        raise EngineError(
            f"rank {rank.index} cannot reach rank 0 on {where}: {one_line(error)}; see rank 0's log"
        ) from error
    for index, other in enumerate(found):
        if other != found[0]:
            raise EngineError(
                f"rank {index} has {other}, but rank 0 has {found[0]}; start all ranks alike"
            )
    return store


def _keys(name: str, rank: Rank) -> list[str]:
    """The keys of all ranks in the leader's store."""
    return [f"{name}-{index}" for index in range(rank.size)]


def _listener(address: tuple[str, int], where: str) -> socket.socket:
    try:
        return socket.create_server(address)
    except OSError as error:
        raise EngineError(
            f"rank 0 cannot listen on {where}: {error.strerror or error}; "
            "give an address of this host and a free port"
        ) from error


def _check_gpu(rank: Rank) -> None:
    visible = torch.cuda.device_count()
    if rank.local_index >= visible:
        raise SettingsError(
            f"rank {rank.index} of {rank.size} is number {rank.local_index + 1} on this node, but "
            f"torch sees {visible} GPU{'s' * (visible != 1)}; start at most {visible} ranks on a "
            "node, or make more GPUs visible with CUDA_VISIBLE_DEVICES"
        )


class SharedChoice(RowProcessor):
    """Makes all ranks use the tokens that the leader chooses."""

    def __init__(self, helper: Any) -> None:
        super().__init__()
        self._leads = bool(helper.is_tp_driver)
        self._group = helper.tp_group
        self._source = int(helper.tp_root_global_rank)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """*scores* [rows, vocab] -> scores whose maximum is the leader's choice.

        Jobs fail and guides end only on the leader. It broadcasts -1 or -2 instead of a token.
        """
        if self._leads:
            chosen = super().__call__(scores, tensor_arg).argmax(dim=-1)
            for row, job in self._jobs:
                if job.done:
                    chosen[row] = _ENDED if job.error is None else _FAILED
        else:
            chosen = torch.empty(len(scores), dtype=torch.long, device=scores.device)
        dist.broadcast(chosen, src=self._source, group=self._group)
        if not self._leads and self._jobs:
            tokens = chosen.tolist()
            for row, job in self._jobs:
                if tokens[row] == _FAILED:
                    job.error = "it failed on the leader"
                elif tokens[row] == _ENDED:
                    job.finish_reason = FinishReason.STOP
        # Not in place: log-probabilities are computed from the original row.
        return torch.zeros_like(scores).scatter_(1, chosen.clamp(min=0)[:, None], 1.0)


def _follow(request: GenerationRequest) -> Row:
    return Row(Job(request, torch.device("cpu")))


def _as_request(row: Row) -> tuple[Callable[[GenerationRequest], Row], tuple[GenerationRequest]]:
    return _follow, (row.job.request,)


# The leader sends a new row to the others as its request. The generator and the tensors on the
# leader's device, which choose tokens, are not sent.
copyreg.pickle(Row, _as_request)


class _Awake(threading.Event):
    """Makes a follower wait for the leader's next round inside the collective, without a timer.

    The leader begins its next round as soon as it has work. A follower that slept for the library's
    0.1 s would delay every first token.
    """

    def wait(self, timeout: float | None = None) -> bool:
        return True


def _fail(manager: Any, error: Exception, processor: Any) -> None:
    """Replaces the library's last round, in which a failed rank informs the others. They may be
    blocked in another collective. Instead the process ends, and its peers notice that."""
    manager.background_thread_status.request_stop(BackgroundThreadStatus.HARD_STOP, 0)
    manager._fail_all_remaining_requests(error, processor)
    manager.background_thread_status.record_fatal_error(error)
