"""The `transformers` engine over several ranks: tensor parallelism through torch.distributed.

Imports torch and the inside of transformers, so only a running engine of several ranks does.

Every rank holds a slice of each layer and runs the same loop of continuous batching: at each round
the leader's new requests and cancellations are broadcast, and every rank schedules, evicts and ends
the same sequences in the same order. For that to hold, all must see the same token ids. So only the
leader chooses: its processors, seeds and log-probabilities are the ones of a single rank, and the
ids that it has chosen are broadcast, one per row, before any rank goes on (`SharedChoice`). Equal
scores on all ranks, which no library promises, are not needed.
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

from trt_tokenizers.engines.base import GenerationRequest
from trt_tokenizers.engines.transformers.peers import Peers, interface_of
from trt_tokenizers.engines.transformers.sampling import Job, Row, RowProcessor
from trt_tokenizers.errors import EngineError, SettingsError
from trt_tokenizers.mpi_environment import Rank

#: For all ranks to come: they start together, but their hosts import torch at different speeds.
_MEET_S = 300.0
#: For all ranks to have their slices: slow disks are read at different speeds.
_LOAD_S = 7200.0
#: For one collective, once all have loaded. It only serves against a peer that lives and hangs:
#: that one is gone is found by `Peers`, which ends the process. gloo raises after it; NCCL's
#: watchdog (TORCH_NCCL_ASYNC_ERROR_HANDLING, on by default) ends the process.
_COLLECTIVE_S = 600.0
_PART_S = 10.0  # for the others to part, too


class Group:
    """This process's place among the ranks of one model."""

    def __init__(self, rank: Rank, address: tuple[str, int], device: str) -> None:
        """Meet the other ranks and set torch.distributed up; returns when all are there.

        Args:
            address: MASTER_ADDR and MASTER_PORT.
            device: ``cpu`` or ``cuda``.

        Raises:
            SettingsError: this rank has no GPU.
            EngineError: another rank did not come, or runs something else.
        """
        if device == "cuda":
            _check_gpu(rank)
        self.rank = rank
        with contextlib.ExitStack() as stack:
            note = ""
            if rank.index == 0:
                listener = stack.enter_context(_listener(address[0]))
                note = str(listener.getsockname()[1])
            facts = f"{device}, torch {torch.__version__}, transformers {transformers.__version__}"
            self.peers = Peers(rank, address, facts, note, _MEET_S)
            self._set_environment(device)
            self._store = dist.TCPStore(  # type: ignore[attr-defined]
                address[0],
                int(self.peers.note),
                is_master=rank.index == 0,
                wait_for_workers=False,
                timeout=timedelta(seconds=_MEET_S),
                master_listen_fd=listener.detach() if rank.index == 0 else None,
            )
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

    def _set_environment(self, device: str) -> None:
        """What transformers, gloo and NCCL read."""
        rank = self.rank
        os.environ["RANK"] = str(rank.index)
        os.environ["WORLD_SIZE"] = str(rank.size)
        os.environ["LOCAL_RANK"] = str(rank.local_index)
        os.environ.setdefault("NCCL_GRAPH_MIXING_SUPPORT", "0")  # as transformers wants it
        # By themselves they take the network that the host's name, or its order of interfaces,
        # happens to mean, and listen there.
        if interface := interface_of(self.peers.own_address):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")

    def all_loaded(self) -> None:
        """Wait for the others' slices; collectives, with their shorter patience, come after."""
        self._store.set(f"loaded-{self.rank.index}", "")
        self._store.wait(
            [f"loaded-{index}" for index in range(self.rank.size)], timedelta(seconds=_LOAD_S)
        )

    def processor(self, manager: Any) -> RowProcessor:
        """The one logits processor of this rank's *manager*."""
        return SharedChoice(manager.distributed_helper)

    def prepare(self, manager: Any) -> None:
        """Put our parts into a manager that has been made and not started."""
        if self.rank.index > 0:
            manager._wake_up_loop = _Awake()
        manager._handle_critical_error = lambda error, processor: _fail(manager, error, processor)

    def part(self, manager: Any) -> None:
        """After the generation loop has ended on all ranks, because the leader stops."""
        # A peer may be ahead, and NCCL's and gloo's clean-up then fails without harm.
        with contextlib.suppress(Exception):
            manager.distributed_helper.destroy_cpu_comm_group()
            dist.destroy_process_group()
        # The leader has the store: it is the last to go.
        self.peers.close(_PART_S if self.rank.index == 0 else 0.0)


def _listener(address: str) -> socket.socket:
    """For torch's store, which by itself would listen on all addresses."""
    try:
        return socket.create_server((address, 0))
    except OSError as error:
        raise EngineError(
            f"rank 0 cannot listen on MASTER_ADDR {address}: {error.strerror or error}; "
            "give an address of this host"
        ) from error


def _check_gpu(rank: Rank) -> None:
    visible = torch.cuda.device_count()
    if rank.local_index >= visible:
        restricted = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise SettingsError(
            f"rank {rank.index} of {rank.size} is number {rank.local_index + 1} on this node, but "
            f"torch sees {visible} GPU{'s' * (visible != 1)}"
            + (f" (CUDA_VISIBLE_DEVICES is {restricted!r})" if restricted is not None else "")
            + f"; start at most {visible} ranks on a node, or make more GPUs visible"
        )


class SharedChoice(RowProcessor):
    """Lets the leader choose the tokens of all ranks."""

    def __init__(self, helper: Any) -> None:
        super().__init__()
        self._leads = bool(helper.is_tp_driver)
        self._group = helper.tp_group
        self._source = int(helper.tp_root_global_rank)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """*scores* [rows, vocab] -> scores whose maximum is the leader's choice.

        A job that fails, fails on the leader; -1 in place of its token tells the others.
        """
        if self._leads:
            chosen = super().__call__(scores, tensor_arg).argmax(dim=-1)
            for row, job in self._jobs:
                if job.error is not None:
                    chosen[row] = -1
        else:
            chosen = torch.empty(len(scores), dtype=torch.long, device=scores.device)
        dist.broadcast(chosen, src=self._source, group=self._group)
        if not self._leads and self._jobs:
            tokens = chosen.tolist()
            for row, job in self._jobs:
                if tokens[row] < 0:
                    job.error = "it failed on the leader"
        # Not in place: a log-probability is computed from the row as it was.
        return torch.zeros_like(scores).scatter_(1, chosen.clamp(min=0)[:, None], 1.0)


def _follow(request: GenerationRequest) -> Row:
    return Row(Job(request, torch.device("cpu")))


def _as_request(row: Row) -> tuple[Callable[[GenerationRequest], Row], tuple[GenerationRequest]]:
    return _follow, (row.job.request,)


# How a new request travels from the leader to the others. What chooses tokens stays behind: the
# generator, and tensors on the leader's device.
copyreg.pickle(Row, _as_request)


class _Awake(threading.Event):
    """Lets a follower wait for the leader's next round in the collective, where it costs nothing.

    The leader goes to its next round as soon as it has work; a follower that slept through its
    own tenth of a second would let every first token wait for it.
    """

    def wait(self, timeout: float | None = None) -> bool:
        return True


def _fail(manager: Any, error: Exception, processor: Any) -> None:
    """In place of the library's last round, in which a rank that has failed tells the others: they
    may be waiting for it in another collective. Here its process ends, which they notice."""
    manager.background_thread_status.request_stop(BackgroundThreadStatus.HARD_STOP, 0)
    manager._fail_all_remaining_requests(error, processor)
    manager.background_thread_status.record_fatal_error(error)
