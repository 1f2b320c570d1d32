"""Several ranks: connecting, the leader's choice, requests sent to followers, bad settings."""

from __future__ import annotations

import pickle
import socket
from concurrent.futures import Future as Future_
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from applicable import needs_engine
from harness import free_ports

needs_engine()

import torch  # noqa: E402

from trt_tokenizers.engines.base import FinishReason, GenerationRequest  # noqa: E402
from trt_tokenizers.engines.transformers import loading, parallel  # noqa: E402
from trt_tokenizers.engines.transformers.engine import TransformersEngine  # noqa: E402
from trt_tokenizers.engines.transformers.sampling import Job, Row  # noqa: E402
from trt_tokenizers.engines.transformers.scheduler import Scheduler  # noqa: E402
from trt_tokenizers.engines.transformers.settings import TransformersSettings  # noqa: E402
from trt_tokenizers.errors import EngineError, SettingsError  # noqa: E402
from trt_tokenizers.mpi_environment import Rank  # noqa: E402

CPU = torch.device("cpu")


class Helper:
    """The part of the library's helper that a choice needs."""

    tp_group = "the group"
    tp_root_global_rank = 0

    def __init__(self, leads: bool) -> None:
        self.is_tp_driver = leads


class Future:
    def __init__(self, job: Job) -> None:
        self.state = Row(job)


def request(**more: Any) -> GenerationRequest:
    return GenerationRequest(**{"key": 1, "prompt_ids": (1,), "max_tokens": 9, **more})


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The leader's broadcasts, which the follower then receives."""
    sent: list[Any] = []

    def broadcast(tensor: Any, src: int, group: str) -> None:
        assert (src, group) == (0, "the group")
        if sent:
            tensor.copy_(sent.pop())
        else:
            sent.append(tensor.clone())

    monkeypatch.setattr("torch.distributed.broadcast", broadcast)
    return sent


def choose(jobs: list[Job], scores: Any, *, leads: bool) -> list[int]:
    choice = parallel.SharedChoice(Helper(leads))
    choice.prepare_tensor_args([Future(job) for job in jobs])
    ids: list[int] = choice(scores, None).argmax(-1).tolist()
    return ids


def test_followers_use_the_leaders_choice(wire: list[Any]) -> None:
    """For all scores of the follower."""
    scores = torch.randn(3, 50)
    given = frozenset({"temperature"})
    asked = [request(), request(given=given), request(bad_words=((int(scores[2].argmax()),),))]
    mine = choose([Job(r, CPU) for r in asked], scores.clone(), leads=True)
    assert mine[0] == scores[0].argmax()
    assert mine[2] != scores[2].argmax()
    for strange in (torch.randn(3, 50), torch.full((3, 50), torch.nan)):
        wire[:] = wire or [torch.tensor(mine)]
        assert choose([Job(r, CPU) for r in asked], strange, leads=False) == mine


def test_a_row_in_prefill_has_no_job(wire: list[Any]) -> None:
    scores = torch.randn(4, 50)
    mine = choose([Job(request(), CPU)], scores.clone(), leads=True)
    assert choose([Job(request(), CPU)], torch.zeros(4, 50), leads=False) == mine


def test_log_probs_come_from_the_scores(wire: list[Any]) -> None:
    job = Job(request(return_log_probs=True), CPU)
    scores = torch.randn(1, 50)
    (token,) = choose([job], scores.clone(), leads=True)
    job.add(token)
    (found,) = job.new_chunk().log_probs
    assert found == pytest.approx(scores.log_softmax(-1)[0, token].item(), abs=1e-5)


def test_a_job_that_fails_fails_on_all_ranks(
    wire: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def process(job: Job, scores: Any) -> Any:
        raise ValueError("this one")

    leaders = [Job(request(), CPU), Job(request(repetition_penalty=3.0), CPU)]
    followers = [Job(job.request, CPU) for job in leaders]
    monkeypatch.setattr(Job, "process", process)
    choose(leaders, torch.randn(2, 50), leads=True)
    choose(followers, torch.randn(2, 50), leads=False)
    assert [job.done for job in leaders] == [job.done for job in followers] == [False, True]


def test_the_end_of_a_guide_is_known_on_all_ranks(wire: list[Any]) -> None:
    """Only the leader has guides. The first one is complete, the second allows token 7 only."""

    class Step:
        words = 2

        def __init__(self, allowed: int | None) -> None:
            self._allowed = allowed

        def fill(self, mask: Any, generated: list[int]) -> bool:
            mask[:] = 0
            mask[0] = 0 if self._allowed is None else 1 << self._allowed
            return self._allowed is not None

    asked = request(guide=("regex", "a"))
    leaders = [Job(asked, CPU, Step(allowed)) for allowed in (None, 7)]  # type: ignore[arg-type]
    followers = [Job(asked, CPU) for _ in leaders]
    mine = choose(leaders, torch.randn(2, 50), leads=True)
    assert choose(followers, torch.randn(2, 50), leads=False) == mine
    assert mine[1] == 7
    for jobs in (leaders, followers):
        assert [job.finish_reason for job in jobs] == [FinishReason.STOP, FinishReason.NOT_FINISHED]


def test_a_row_is_pickled_as_its_request() -> None:
    asked = request(prompt_ids=(5, 6), given=frozenset({"top_k"}), seed=3, stop_words=((7, 8),))
    row = Row(Job(asked, CPU))
    other = pickle.loads(pickle.dumps(row))
    assert other.job.request == asked
    assert (other.request_id, other.initial_tokens) == (row.request_id, row.initial_tokens)
    assert other.job.generated == []


def test_cancellations_are_sorted() -> None:
    """All ranks must free cache blocks in the same order."""
    freed: list[str] = []

    class Cache:
        def free_blocks(self, request_id: str) -> None:
            freed.append(request_id)

    scheduler = Scheduler(Cache(), None, 8)
    scheduler.deliver = lambda _: None
    for key in (30, 4, 111, 5):
        scheduler.add_waiting_request(Row(Job(request(key=key), CPU)))
        scheduler.set_request_cancellation(str(key))
    scheduler.clear_cancelled_requests()
    assert freed == sorted(freed)


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    parallel._check_gpu(Rank(0, 6, 0))
    message = r"rank 5 of 6 is number 2 on this node, but torch sees 1 GPU; start at most 1"
    with pytest.raises(SettingsError, match=message):
        parallel._check_gpu(Rank(5, 6, 1))


def test_ranks_on_cpus_where_torch_sees_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    settings = TransformersSettings(model_dir="/m", device="cpu")
    assert loading.choose_device(settings, Rank()) == "cpu"
    with pytest.raises(SettingsError, match=r"for 2 ranks, .* hide them .* CUDA_VISIBLE_DEVICES="):
        loading.choose_device(settings, Rank(0, 2))


def connect(size: int, *devices: str, timeout: float = 10) -> list[Future_[Any]]:
    """Ranks 0, 1, ... of *size* in threads, one for each of *devices*."""
    address = ("127.0.0.1", free_ports(1)[0])
    with ThreadPoolExecutor(size) as pool:
        return [
            pool.submit(parallel.meet, Rank(index, size), address, device, timeout)
            for index, device in enumerate(devices)
        ]


def test_ranks_share_the_leaders_store() -> None:
    leader, *others = [future.result() for future in connect(3, "cpu", "cpu", "cpu")]
    leader.set("key", "value")
    assert [store.get("key") for store in others] == [b"value"] * 2


def test_a_rank_that_does_not_connect_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_PART_S", 1.0)
    leader, other = connect(4, "cpu", "cpu", timeout=1)
    with pytest.raises(EngineError, match="rank 2, 3 of 4 did not connect to MASTER_ADDR 127"):
        leader.result()
    with pytest.raises(EngineError, match="see rank 0's log"):
        other.result()


def test_ranks_that_differ_are_refused() -> None:
    leader, other = connect(2, "cpu", "cuda")
    message = "rank 1 has 2 ranks on cuda, torch .*, but rank 0 has 2 ranks on cpu, torch "
    with pytest.raises(EngineError, match=message):
        leader.result()
    with pytest.raises(EngineError):
        other.result()


def test_a_leader_that_does_not_listen() -> None:
    address = ("127.0.0.1", free_ports(1)[0])
    with pytest.raises(
        EngineError, match=r"rank 1 cannot reach rank 0 on MASTER_ADDR 127\.0\.0\.1"
    ):
        parallel.meet(Rank(1, 2), address, "cpu", timeout=1)


def test_a_port_in_use() -> None:
    message = "cannot listen on .*: Address already in use"
    with (
        socket.create_server(("127.0.0.1", 0)) as used,
        pytest.raises(EngineError, match=message),
    ):
        parallel.meet(Rank(0, 2), used.getsockname(), "cpu")


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("two_ranks")
def test_ranks_without_a_meeting_point(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    message = "MASTER_ADDR and MASTER_PORT are not set; start it with launch_server --world-size 2"
    with pytest.raises(SettingsError, match=message):
        TransformersEngine({"model_dir": str(tmp_path)})
