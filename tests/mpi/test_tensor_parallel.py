"""The transformers engine over real MPI ranks, each in a real Triton, against one rank.

`launch_server --world-size N` starts them with the first mpirun on PATH.

Equal means: the same token ids, and log-probabilities that differ by less than 1e-3. Sums over
several ranks have other rounding errors than one sum. All models run in float32, where the best two
scores differ by more than the rounding.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from applicable import needs_engine
from harness import Generated, Server, free_ports, generate, joined, launched
from launching import alive, until
from parallel import rank_pid

pytestmark = [pytest.mark.triton, pytest.mark.mpi, pytest.mark.model]

needs_engine()

import torch  # noqa: E402
import transformers  # noqa: E402
from engine_rank import forked  # noqa: E402

RUNNING = "trt_tokenizers:engine_sequences_running"
OUTPUTS = "text_output,finish_reason,num_output_tokens,token_ids,output_log_probs"


@pytest.fixture(autouse=True, scope="module")
def one_thread_a_rank() -> Iterator[None]:
    """Ranks with more threads than cores are many times slower."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def repository(folder: Path, model: Path) -> Path:
    sizes = ("--set", "engine_max_batch_size=16", "--set", "max_seq_len=512")
    return generate(folder, "--model", str(model), "--outputs", OUTPUTS, *sizes)


def tokens(answer: Generated) -> list[int]:
    ids: list[int] = np.ravel(answer["token_ids"]).tolist()
    return ids


def ask_all(server: Server, bodies: list[dict[str, Any]]) -> list[Generated]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(server.ask, bodies))


def assert_same(found: list[Generated], expected: list[Generated]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert tokens(one) == tokens(other)
        assert one["text_output"] == other["text_output"]
        assert one["finish_reason"] == other["finish_reason"]
        if "output_log_probs" in other:
            assert one["output_log_probs"] == pytest.approx(other["output_log_probs"], abs=1e-3)


PROMPTS = [
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "1, 2, 3, 4,",
    "Roses are red,", "The three primary colours are", "To be, or not", "Dear Sir or Madam,",
]  # fmt: skip
GREEDY = [{"text_input": prompt, "max_tokens": 16, "return_token_ids": True} for prompt in PROMPTS]


# Two ranks, with a small model that has an even number of heads.

HOT = {**GREEDY[0], "temperature": 3.0, "top_k": 50, "top_p": 0.9}
#: (Number of the prompt, parameters).
EACH_PARAMETER: list[tuple[int, dict[str, Any]]] = [
    (0, {**HOT, "seed": 1}),
    (0, {**HOT, "seed": 2, "return_log_probs": True}),
    (0, {**HOT, "seed": 3, "repetition_penalty": 1.3}),
    (1, {"repetition_penalty": 1.3, "return_log_probs": True}),
    (1, {"presence_penalty": 4.0, "frequency_penalty": 1.0}),
    (2, {"bad_words": [" He", " world"]}),
    (1, {"end_id": 916, "min_tokens": 9}),
    (3, {"guided_decoding_guide_type": "regex", "guided_decoding_guide": "[0-9]{4}"}),
    (4, {**HOT, "seed": 4, "guided_decoding_guide_type": "json", "max_tokens": 12}),
]
PARAMETERS = [{**GREEDY[number], **more} for number, more in EACH_PARAMETER]
LOG_PROBS = [{**body, "return_log_probs": True} for body in GREEDY]


@pytest.fixture(scope="module")
def small_model(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama that can be split in two, with SmolLM2's tokenizer."""
    folder = tmp_path_factory.mktemp("small-llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=64, intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
        initializer_range=0.3,  # scores far enough apart for greedy
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).float()
    # A few words repeat, so that penalties have an effect, and EOS occurs.
    model.lm_head.weight.data[900:960] *= 4
    model.lm_head.weight.data[config.eos_token_id] *= 6
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(smollm2 / name, folder)
    return folder


@pytest.fixture(scope="module")
def small_repository(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("small") / "repo", small_model)


@pytest.fixture(scope="module")
def alone(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The answers of a server of one rank, batch by batch."""
    with launched(small_repository, tmp_path_factory.mktemp("alone")) as server:
        return [ask_all(server, bodies) for bodies in (GREEDY, PARAMETERS, LOG_PROBS)]


@pytest.fixture(scope="module")
def two(
    alone: list[Any], small_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Its last test kills a rank."""
    folder = tmp_path_factory.mktemp("two")
    with launched(small_repository, folder, "--world-size", "2", exit_code=None) as ranks:
        yield ranks
        if ranks.process.poll() is None:
            ranks.process.kill()


def test_two_ranks_give_the_tokens_of_one(two: Server, alone: list[Any]) -> None:
    assert_same(ask_all(two, GREEDY), alone[0])


def test_every_parameter_works_on_two_ranks(two: Server, alone: list[Any]) -> None:
    plain, expected, _ = alone
    assert_same(ask_all(two, PARAMETERS), expected)
    for (number, parameters), answer in zip(EACH_PARAMETER, expected, strict=True):
        assert tokens(answer) != tokens(plain[number]), f"{parameters} change nothing"


def test_log_probs_of_two_ranks(two: Server, alone: list[Any]) -> None:
    answers = ask_all(two, LOG_PROBS)
    assert_same(answers, alone[2])
    assert all(len(answer["output_log_probs"]) == len(tokens(answer)) for answer in answers)


def test_an_unseeded_sequence_is_the_same_on_all_ranks(two: Server, alone: list[Any]) -> None:
    """Only the leader draws its seed. If the ranks disagreed on a token, their caches would
    differ, and later requests would be wrong or hang."""
    unseeded = {name: value for name, value in HOT.items() if name != "seed"}
    unseeded["min_tokens"] = 16  # two answers that end at once could be the same
    first, second = ask_all(two, [unseeded, unseeded])
    assert tokens(first) != tokens(second)
    assert_same(ask_all(two, GREEDY), alone[0])


def test_stop_words_on_two_ranks(two: Server, small_repository: Path, alone: list[Any]) -> None:
    whole = alone[0][3]["text_output"]
    stop = whole[len(whole) // 2 :][:6]
    answer = two.ask({**GREEDY[3], "stop_words": [stop]})
    assert answer["text_output"] == whole[: whole.index(stop)]
    assert answer["finish_reason"] == "stop"


def test_a_cancel_keeps_the_ranks_equal(two: Server, alone: list[Any]) -> None:
    body = json.dumps({"text_input": "Count", "max_tokens": 480, "min_tokens": 480, "stream": True})
    for _ in range(3):
        curl = subprocess.Popen(
            ["curl", "-sN", "-d", body, f"{two.http}/v2/models/ensemble/generate_stream"],
            stdout=subprocess.PIPE,
        )
        assert curl.stdout is not None
        assert curl.stdout.readline().startswith(b"data:")
        until(lambda: two.metric(RUNNING) == 1)
        curl.kill()
        curl.communicate()
        assert_same(ask_all(two, GREEDY[:4]), alone[0][:4])
    until(lambda: two.metric(RUNNING) == 0)


def kill_a_rank(ranks: Server, victim: int, name: str) -> None:
    """It ends the other; the reason is on the last line."""
    names = ("stub", "tritonserver")
    processes = [rank_pid(ranks, rank, name) for rank in (0, 1) for name in names]
    os.kill(rank_pid(ranks, victim, name), signal.SIGKILL)
    assert ranks.process.wait(timeout=30) != 0
    assert not any(map(alive, processes))
    assert ranks.log.read_text().splitlines()[-1].startswith("error: rank ")


def test_a_killed_follower_ends_the_leader(two: Server) -> None:
    """The last test of `two`: ranks without requests take CPU time too."""
    kill_a_rank(two, 1, "stub")


# `two` has Open MPI 5.
@pytest.mark.parametrize("mpirun", ["openmpi-4", "mpich"], indirect=True)
def test_every_mpi_gives_the_tokens_of_one(
    mpirun: str, small_repository: Path, alone: list[Any], tmp_path: Path
) -> None:
    # --force: `two` may serve the same repository.
    options = ("--world-size", "2", "--mpirun", mpirun, "--force")
    with launched(small_repository, tmp_path, *options) as ranks:
        assert_same(ask_all(ranks, GREEDY), alone[0])


@pytest.mark.parametrize("victim", [(0, "stub"), (0, "tritonserver")])
def test_a_killed_leader_ends_the_other_rank(
    small_repository: Path, tmp_path: Path, victim: tuple[int, str]
) -> None:
    options = ("--world-size", "2", "--force")
    with launched(small_repository, tmp_path, *options, exit_code=None) as ranks:
        kill_a_rank(ranks, *victim)


def test_a_model_that_cannot_be_split_is_refused(smollm2: Path, tmp_path: Path) -> None:
    """The launcher refuses it before anything starts."""
    launcher = str(Path(sys.executable).with_name("launch_server"))
    made = repository(tmp_path / "repo", smollm2)
    done = subprocess.run(
        [launcher, "--model-repo", str(made), "--world-size", "2"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {smollm2 / 'config.json'}")
    assert (
        "num_attention_heads 9 and num_key_value_heads 3, which cannot be split over a tensor "
        "parallel size of 2; sizes that work: 1, 3"
    ) in line


def variables(rank: int, port: int) -> dict[str, str]:
    """The environment of one of two ranks."""
    found = {"RANK": rank, "SIZE": 2, "LOCAL_RANK": rank}
    return {
        "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        **{f"OMPI_COMM_WORLD_{name}": str(value) for name, value in found.items()},
    }  # fmt: skip


#: Starts ranks without a server; it imports the engine once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["transformers.models.llama.modeling_llama", "trt_tokenizers.engines.transformers.engine"]
)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_notices_by_itself_that_another_is_gone(
    small_model: Path, tmp_path: Path, victim: int
) -> None:
    """Without mpirun, which would end all ranks when one fails."""
    (port,) = free_ports(1)
    logs = [tmp_path / "0", tmp_path / "1"]
    pipes = [FORKS.Pipe() for _ in logs]
    ranks = [
        FORKS.Process(
            target=forked, args=(str(small_model), variables(rank, port), pipes[rank][1], log)
        )
        for rank, log in enumerate(logs)
    ]
    for rank in ranks:
        rank.start()
    try:
        for own, _ in pipes:
            assert own.poll(60)
            assert own.recv() == "loaded"
        ranks[victim].kill()
        survivor = ranks[1 - victim]
        survivor.join(15)
        assert survivor.exitcode not in (0, None)
        # The error of gloo does not name the rank.
        assert re.search(
            "engine 'transformers' has died: RuntimeError: .*gloo.*; restart all ranks",
            logs[1 - victim].read_text(),
        )
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()


def test_followers_end_cleanly_when_the_leader_stops(small_model: Path) -> None:
    (port,) = free_ports(1)
    program = str(Path(__file__).with_name("engine_rank.py"))
    ranks = [
        subprocess.Popen(
            [sys.executable, program, str(small_model)], env=os.environ | variables(rank, port),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for rank in ranks:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "loaded\n"
        assert ranks[0].communicate(timeout=30) == ("stopped\n", "")
        assert ranks[1].communicate(timeout=30) == ("stopped\n", "")
        assert [rank.returncode for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


# Three ranks, with a real model.


def test_smollm2_over_three_ranks(smollm2: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    expected = []
    for prompt in PROMPTS:
        given = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**given, max_new_tokens=16, do_sample=False)[0]
        expected.append(out[given.input_ids.size(1) :].tolist())
    made = repository(tmp_path / "repo", smollm2)
    with launched(made, tmp_path, "--world-size", "3") as ranks:
        assert [tokens(answer) for answer in ask_all(ranks, GREEDY)] == expected
        streams = ranks.streams([{**body, "stream": True} for body in GREEDY])
        for chunks, ids in zip(streams, expected, strict=True):
            assert len(chunks) > 1
            assert [i for chunk in chunks for i in tokens(chunk)] == ids
            assert joined(chunks) == tokenizer.decode(ids, skip_special_tokens=True)
