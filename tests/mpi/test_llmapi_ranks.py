"""The llmapi engine in leader mode: real mpirun, Triton and mpi4py, fake TensorRT-LLM."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from harness import generate, launched, with_double
from launching import alive
from parallel import rank_pid

pytestmark = [pytest.mark.triton, pytest.mark.mpi, pytest.mark.model]


@pytest.fixture(scope="module")
def repository(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llmapi") / "repo"
    model = ("--engine", "llmapi", "--model", str(smollm2), "--set", "max_seq_len=512")
    return with_double(generate(folder, *model, "--llm-arg", "tensor_parallel_size=2"))


def test_a_leader_serves_and_stops_its_ranks(repository: Path, tmp_path: Path) -> None:
    with launched(repository, tmp_path, "--world-size", "2") as ranks:
        stubs = [rank_pid(ranks, rank, "stub") for rank in (0, 1)]
        answer = ranks.ask({"text_input": "The capital of France is", "max_tokens": 2})
        assert answer["text_output"] == " Paris."
    assert not any(map(alive, stubs))
    log = ranks.log.read_text()
    assert "ending this rank's server: the leader has stopped" in log
    assert "prterun" not in log, "all ranks have left MPI cleanly"


def test_a_dead_worker_ends_the_leader(repository: Path, tmp_path: Path) -> None:
    with launched(repository, tmp_path, "--world-size", "2", exit_code=None) as ranks:
        stubs = [rank_pid(ranks, rank, "stub") for rank in (0, 1)]
        os.kill(stubs[1], signal.SIGKILL)
        assert ranks.process.wait(timeout=30) != 0
        assert not any(map(alive, stubs))
    assert ranks.log.read_text().splitlines()[-1].startswith("error: rank 1")
