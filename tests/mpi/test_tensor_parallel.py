"""The transformers engine over real MPI ranks, each in a real Triton, against one rank.

Equal means: the same token ids, and log-probabilities that differ by less than 1e-3. Sums over
several ranks round otherwise than the sum of one, so all run in float32, where the models' best two
scores are farther apart than that rounding.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import Generated, Server, generate, joined, launched
from parallel import Ranks, alive, started

pytestmark = [pytest.mark.triton, pytest.mark.mpi, pytest.mark.model]

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

OUTPUTS = "text_output,finish_reason,num_output_tokens,output_ids,output_log_probs"


def repository(folder: Path, model: Path) -> Path:
    sizes = ("--set", "engine_max_batch_size=16", "--set", "max_seq_len=512")
    return generate(folder, "--model", str(model), "--outputs", OUTPUTS, *sizes)


def tokens(answer: Generated) -> list[int]:
    ids: list[int] = np.ravel(answer["output_ids"]).tolist()
    return ids


def asked_at_once(server: Server, bodies: list[dict[str, Any]]) -> list[Generated]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(server.ask, bodies))


def assert_same(found: list[Generated], expected: list[Generated]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert tokens(one) == tokens(other)
        assert one["text_output"] == other["text_output"]
        assert one["finish_reason"] == other["finish_reason"]
        if "output_log_probs" in other:
            assert one["output_log_probs"] == pytest.approx(other["output_log_probs"], abs=1e-3)


def one_rank(repository: Path, folder: Path, *batches: list[dict[str, Any]]) -> list[Any]:
    """The answers of a server of one rank, batch by batch."""
    with launched(repository, folder) as server:
        return [asked_at_once(server, bodies) for bodies in batches]


PROMPTS = [
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "1, 2, 3, 4,",
    "Roses are red,", "The three primary colours are", "To be, or not", "Dear Sir or Madam,",
]  # fmt: skip
GREEDY = [{"text_input": prompt, "max_tokens": 16} for prompt in PROMPTS]


# Two ranks, with a small model that has an even number of heads.

HOT = {"text_input": PROMPTS[0], "max_tokens": 24, "temperature": 1.2, "top_k": 50, "top_p": 0.9}
EACH_PARAMETER: list[dict[str, Any]] = [
    {**HOT, "seed": 1},
    {**HOT, "seed": 2, "return_log_probs": True},
    {**HOT, "seed": 2, "repetition_penalty": 1.3},
    {**GREEDY[1], "repetition_penalty": 1.3, "return_log_probs": True},
    {**GREEDY[1], "presence_penalty": 1.5, "frequency_penalty": 0.7},
    {**GREEDY[1], "return_log_probs": True},
    {**GREEDY[2], "min_tokens": 9},
    {**GREEDY[2], "bad_words": [" the", " and"]},
]


@pytest.fixture(scope="module")
def small_model(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random weights that can be split in two, with SmolLM2's tokenizer."""
    folder = tmp_path_factory.mktemp("small-llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=64, intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
        initializer_range=0.3,  # apart enough for greedy to be a clear choice
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).float().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(smollm2 / name, folder)
    return folder


@pytest.fixture(scope="module")
def small_repository(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("small") / "repo", small_model)


@pytest.fixture(scope="module")
def alone(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("alone")
    return one_rank(small_repository, folder, GREEDY, EACH_PARAMETER)


@pytest.fixture(scope="module")
def two(
    alone: list[Any], small_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ranks]:
    with started(small_repository, tmp_path_factory.mktemp("two"), 2) as ranks:
        ranks.wait_until_ready()
        yield ranks
        assert ranks.stop() == 0, ranks.log.read_text()[-4000:]


def test_two_ranks_give_the_tokens_of_one(two: Ranks, alone: list[Any]) -> None:
    assert_same(asked_at_once(two, GREEDY), alone[0])


def test_every_parameter_holds_on_two_ranks(two: Ranks, alone: list[Any]) -> None:
    assert_same(asked_at_once(two, EACH_PARAMETER), alone[1])
    assert len({tuple(tokens(answer)) for answer in alone[1]}) == len(EACH_PARAMETER) - 1


def test_stop_words_on_two_ranks(two: Ranks, small_repository: Path, alone: list[Any]) -> None:
    whole = alone[0][3]["text_output"]
    stop = whole[len(whole) // 2 :][:6]
    answer = two.ask({**GREEDY[3], "stop_words": [stop]})
    assert answer["text_output"] == whole[: whole.index(stop)]
    assert answer["finish_reason"] == "stop"


def test_a_cancel_leaves_the_ranks_in_step(two: Ranks, alone: list[Any]) -> None:
    body = json.dumps({"text_input": "Count", "max_tokens": 480, "min_tokens": 480, "stream": True})
    for _ in range(3):
        curl = subprocess.Popen(
            ["curl", "-sN", "-d", body, f"{two.http}/v2/models/ensemble/generate_stream"],
            stdout=subprocess.PIPE,
        )
        assert curl.stdout is not None
        assert curl.stdout.readline().startswith(b"data:")
        curl.kill()
        curl.communicate()
        assert_same(asked_at_once(two, GREEDY[:4]), alone[0][:4])
    deadline = time.monotonic() + 10
    while running := two.metric("trt_tokenizers_engine_sequences_running"):
        assert time.monotonic() < deadline, f"{running} were not cancelled"
        time.sleep(0.1)


@pytest.mark.parametrize("victim", [(0, "stub"), (0, "tritonserver"), (1, "stub")])
def test_a_killed_rank_ends_the_others(
    small_repository: Path, tmp_path: Path, victim: tuple[int, str]
) -> None:
    with started(small_repository, tmp_path, 2) as ranks:
        ranks.wait_until_ready()
        other = 1 - victim[0]
        survivor = ranks.pid(other, "stub")
        os.kill(ranks.pid(*victim), signal.SIGKILL)
        deadline = time.monotonic() + 15
        while alive(survivor) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(survivor), ranks.log.read_text()[-4000:]
        assert ranks.process.wait(timeout=30) != 0
        log = ranks.log.read_text()
    if other == 1:
        assert "rank 0, the leader, has ended; restart all ranks" in log


def test_a_model_that_cannot_be_split_is_refused(smollm2: Path, tmp_path: Path) -> None:
    with started(repository(tmp_path / "repo", smollm2), tmp_path, 2) as ranks:
        assert ranks.process.wait(timeout=60) != 0
        assert (
            "the model has num_attention_heads 9 and num_key_value_heads 3, which cannot be split "
            "over a tensor parallel size of 2; sizes that work: 1, 3"
        ) in ranks.log.read_text()


# Three ranks, with a real model.


def test_smollm2_over_three_ranks(smollm2: Path, tmp_path: Path) -> None:
    made = repository(tmp_path / "repo", smollm2)
    (expected,) = one_rank(made, tmp_path, GREEDY)
    with started(made, tmp_path, 3) as ranks:
        ranks.wait_until_ready()
        assert_same(asked_at_once(ranks, GREEDY), expected)
        streams = ranks.streams([{**body, "stream": True} for body in GREEDY])
        for chunks, answer in zip(streams, expected, strict=True):
            assert len(chunks) > 1
            assert joined(chunks) == answer["text_output"]
            assert [i for chunk in chunks for i in tokens(chunk)] == tokens(answer)
        assert ranks.stop() == 0, ranks.log.read_text()[-4000:]
