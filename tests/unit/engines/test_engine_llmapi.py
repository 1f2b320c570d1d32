"""The engine llmapi on the test double of TensorRT-LLM, compared with ``model.generate``."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tensorrt_llm  # noqa: E402

from trt_tokenizers.engines.base import Chunk, FinishReason, GenerationRequest  # noqa: E402
from trt_tokenizers.engines.llmapi import compat  # noqa: E402
from trt_tokenizers.engines.llmapi import engine as engine_module  # noqa: E402
from trt_tokenizers.engines.llmapi.engine import LlmApiEngine  # noqa: E402
from trt_tokenizers.engines.llmapi.sampling import (  # noqa: E402
    GUIDES,
    PARAMETERS,
    markdown,
    sampling_params,
)
from trt_tokenizers.engines.serving_settings import ServingSettings  # noqa: E402
from trt_tokenizers.engines.tensors import parse_requests  # noqa: E402
from trt_tokenizers.errors import EngineError, RequestError, SettingsError  # noqa: E402

KEYS = itertools.count(1)
PROMPT = (5, 6, 7)
DOCS = Path(__file__).parents[3] / "docs" / "llmapi.md"


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        initializer_range=0.3,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model_dir(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-llama")
    model.save_pretrained(folder)
    return Path(folder)


def make_engine(model_dir: Path, loras: str = "", **llm_args: Any) -> LlmApiEngine:
    settings = {"model_dir": str(model_dir), "max_seq_len": "256", "loras": loras}
    return LlmApiEngine({**settings, "llm_args": json.dumps(llm_args)})


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[LlmApiEngine]:
    engine = make_engine(
        model_dir, f"fr={model_dir}", lora_config={"max_lora_rank": 8}, max_num_tokens=200,
        kv_cache_config={"max_tokens": 320},
    )  # fmt: skip
    yield engine
    engine.stop()


def request(**values: Any) -> GenerationRequest:
    given = {"prompt_ids": PROMPT, "max_tokens": 12, **values}
    return GenerationRequest(key=next(KEYS), **given)


def answer(engine: LlmApiEngine, r: GenerationRequest) -> list[Chunk]:
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    engine.submit(r, chunks.put)
    found = [chunks.get(timeout=20)]
    while not found[-1].last:
        found.append(chunks.get(timeout=20))
    return found


def ids(chunks: list[Chunk]) -> list[int]:
    return [i for chunk in chunks for i in chunk.token_ids]


@pytest.fixture(scope="module")
def greedy(model: Any) -> list[int]:
    prompt = torch.tensor([PROMPT])
    out = model.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None)
    return list(out[0, len(PROMPT) :].tolist())


@pytest.mark.parametrize("stream", [False, True])
def test_greedy_is_that_of_generate(engine: LlmApiEngine, greedy: list[int], stream: bool) -> None:
    chunks = answer(engine, request(stream=stream))
    assert ids(chunks) == greedy
    assert [len(chunk.token_ids) for chunk in chunks] == ([1] * 12 if stream else [12])
    assert chunks[-1].finish_reason is FinishReason.LENGTH


def test_the_end_id_is_the_last_token(engine: LlmApiEngine, greedy: list[int]) -> None:
    (chunk,) = answer(engine, request(end_ids=frozenset((greedy[3],))))
    assert list(chunk.token_ids) == greedy[: greedy.index(greedy[3]) + 1]
    assert chunk.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_stop_words_end_the_answer_and_are_emitted(
    engine: LlmApiEngine, greedy: list[int], length: int, stream: bool
) -> None:
    word = tuple(greedy[5 : 5 + length])
    at = next(i for i in range(12) if tuple(greedy[i : i + length]) == word) + length
    chunks = answer(engine, request(stop_words=(word,), stream=stream))
    assert ids(chunks) == greedy[:at]
    assert chunks[-1].finish_reason is FinishReason.STOP


def test_no_stop_word_ends_before_min_tokens(engine: LlmApiEngine, greedy: list[int]) -> None:
    chunks = answer(engine, request(stop_words=((greedy[2],),), min_tokens=8))
    assert len(ids(chunks)) >= 8


def test_bad_words_of_any_length_do_not_appear(engine: LlmApiEngine, greedy: list[int]) -> None:
    for word in ((greedy[2],), tuple(greedy[2:4])):
        found = ids(answer(engine, request(bad_words=(word,))))
        assert found != greedy
        assert all(tuple(found[i : i + len(word)]) != word for i in range(len(found)))


def test_embedding_bias(engine: LlmApiEngine, model: Any, greedy: list[int]) -> None:
    """The bias acts like transformers' sequence_bias for single tokens."""
    bias = np.zeros(256, dtype=np.float32)
    bias[[greedy[3], 9]] = -50, 1.5
    bias.flags.writeable = False  # as Triton's are
    r = request(embedding_bias=bias)
    params = sampling_params(compat.Api(), r)
    assert params.embedding_bias.dtype is torch.float32
    out = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=None,
        sequence_bias=[[[greedy[3]], -50.0], [[9], 1.5]],
    )  # fmt: skip
    assert ids(answer(engine, r)) == out[0, len(PROMPT) :].tolist()
    assert ids(answer(engine, r)) != greedy


def test_a_seed_gives_the_same_and_none_does_not(engine: LlmApiEngine) -> None:
    hot = {"temperature": 3.0, "given": frozenset({"temperature"})}
    first, second = (ids(answer(engine, request(seed=7, **hot))) for _ in range(2))
    assert first == second
    drawn = {tuple(ids(answer(engine, request(**hot)))) for _ in range(4)}
    assert len(drawn) == 4


def test_log_probs_and_figures(engine: LlmApiEngine, model: Any, greedy: list[int]) -> None:
    chunks = answer(engine, request(stream=True, return_log_probs=True, return_perf_metrics=True))
    found = [value for chunk in chunks for value in chunk.log_probs]
    with torch.no_grad():
        scores = model(torch.tensor([[*PROMPT, *greedy]])).logits[0].log_softmax(-1)
    at = range(len(PROMPT) - 1, len(PROMPT) + 11)
    assert found == pytest.approx([scores[i, t].item() for i, t in zip(at, greedy, strict=True)],
                                  abs=1e-3)  # fmt: skip
    perf = chunks[-1].perf
    assert perf is not None
    assert perf["arrival_time_ns"] <= perf["first_token_time_ns"] <= perf["last_token_time_ns"]
    assert perf["total_draft_tokens"] == 0
    assert all(chunk.perf is None for chunk in chunks[:-1])


def test_cancel(engine: LlmApiEngine) -> None:
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    r = request(max_tokens=250, stream=True)
    engine.submit(r, chunks.put)
    engine.cancel(r.key)
    while not (chunk := chunks.get(timeout=20)).last:
        pass
    assert chunk.finish_reason is FinishReason.CANCELLED
    engine.cancel(r.key)
    assert ids(answer(engine, request())), "other requests continue"


class Played:
    """A result of generate_async whose steps the test chooses."""

    def __init__(self) -> None:
        self.finished = False
        self.steps: asyncio.Queue[tuple[list[int] | None, str | None]] = asyncio.Queue()
        self.aborted = 0
        self.outputs: list[Any] = []

    def play(self, engine: LlmApiEngine, ids: list[int] | None, reason: str | None = None) -> None:
        """Add a step: *ids* are all ids so far; None ends the iteration."""
        engine._loop.call_soon_threadsafe(self.steps.put_nowait, (ids, reason))

    def abort(self) -> None:
        self.aborted += 1

    def __aiter__(self) -> Played:
        return self

    async def __anext__(self) -> Played:
        ids, reason = await self.steps.get()
        if ids is None:
            raise StopAsyncIteration
        self.finished = reason is not None
        self.outputs = [SimpleNamespace(token_ids=ids, finish_reason=reason, logprobs=[])]
        return self


@pytest.fixture
def played(engine: LlmApiEngine, monkeypatch: pytest.MonkeyPatch) -> Played:
    result = Played()
    monkeypatch.setattr(engine._llm, "generate_async", lambda *a, **k: result)
    return result


def settle(engine: LlmApiEngine) -> None:
    """Wait until the loop has no task left for a request."""

    async def others() -> None:
        while len(asyncio.all_tasks()) > 2:  # this task and the engine's watch
            await asyncio.sleep(0.01)

    asyncio.run_coroutine_threadsafe(others(), engine._loop).result(20)


def test_a_request_cancelled_before_its_start_is_not_generated(
    engine: LlmApiEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(engine._llm, "generate_async", lambda *a, **k: calls.append(a))
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    held, go = threading.Event(), threading.Event()
    engine._loop.call_soon_threadsafe(lambda: (held.set(), go.wait(20)))
    held.wait(20)
    r = request(stream=True)
    engine.submit(r, chunks.put)
    engine.cancel(r.key)
    go.set()
    assert chunks.get(timeout=20).finish_reason is FinishReason.CANCELLED
    settle(engine)
    assert calls == []


def test_a_key_may_be_used_again_once_its_answer_has_ended(
    engine: LlmApiEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late steps of the old request do not affect the new one."""
    first, second = Played(), Played()
    played = iter((first, second))
    monkeypatch.setattr(engine._llm, "generate_async", lambda *a, **k: next(played))
    old: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    new: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    r = request(stream=True)
    engine.submit(r, old.put)
    first.play(engine, [1])
    assert old.get(timeout=20).token_ids == (1,)
    engine.cancel(r.key)
    assert old.get(timeout=20).last
    engine.submit(r, new.put)
    first.play(engine, [1, 2], "cancelled")
    second.play(engine, [3], "length")
    assert new.get(timeout=20).token_ids == (3,)
    settle(engine)
    assert old.empty()


def test_an_answer_that_breaks_off_is_an_error(engine: LlmApiEngine, played: Played) -> None:
    played.play(engine, [1])
    played.play(engine, None)
    chunks = answer(engine, request(stream=True))
    assert "without a finish reason" in (chunks[-1].error or "")


def test_an_unreadable_step_aborts_the_request(engine: LlmApiEngine, played: Played) -> None:
    """Fewer log-probs than tokens. Without the abort TensorRT-LLM would continue to generate."""
    played.play(engine, [1])
    chunks = answer(engine, request(stream=True, return_log_probs=True))
    settle(engine)
    assert chunks[-1].error
    assert played.aborted == 1


def test_an_abort_that_fails_leaves_the_request_answered(
    engine: LlmApiEngine, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("the queue to the workers is closed")

    monkeypatch.setattr(played, "abort", broken)
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    r = request(stream=True)
    engine.submit(r, chunks.put)
    played.play(engine, [1])
    chunks.get(timeout=20)
    engine.cancel(r.key)
    assert chunks.get(timeout=5).finish_reason is FinishReason.CANCELLED
    played.play(engine, [1, 2], "cancelled")
    settle(engine)


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (ValueError("prompt too long"), True),
        (tensorrt_llm.executor.RequestError("prompt too long"), True),
        (TypeError("unexpected keyword argument"), False),
        (RuntimeError("queue closed"), False),
    ],
)
def test_wrong_arguments_are_the_clients_error_and_others_the_servers(
    engine: LlmApiEngine, monkeypatch: pytest.MonkeyPatch, error: Exception, refused: bool
) -> None:
    def failing(*given: Any, **named: Any) -> Any:
        raise error

    monkeypatch.setattr(engine._llm, "generate_async", failing)
    (chunk,) = answer(engine, request())
    assert str(error) in (chunk.error or "")
    assert chunk.refused is refused


def test_nothing_follows_the_last_chunk(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step may still arrive after the engine died; merged with the error chunk it hides it."""
    engine = make_engine(model_dir)
    played = Played()
    monkeypatch.setattr(engine._llm, "generate_async", lambda *a, **k: played)
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    engine.submit(request(stream=True), chunks.put)
    played.play(engine, [1])
    assert chunks.get(timeout=20).token_ids == (1,)
    engine._loop.call_soon_threadsafe(engine._die, "a test")
    played.play(engine, [1, 2])
    played.play(engine, [1, 2, 3], "length")
    settle(engine)
    assert chunks.get(timeout=20).error
    assert chunks.empty()
    engine.stop()


#: Parameter of the ensemble -> (fields of the request, expected fields of SamplingParams).
GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "max_tokens": ({"max_tokens": 5}, {"max_tokens": 5}),
    "min_tokens": ({"min_tokens": 4}, {"min_tokens": 4}),
    "min_length": ({"min_tokens": 4}, {"min_tokens": 4}),
    "end_id": ({"end_ids": frozenset((9,))}, {"end_id": 9}),
    "pad_id": ({"pad_id": 8}, {"pad_id": 8}),
    "stop_words": ({"stop_words": ((4,), (5, 6))}, {"stop_token_ids": [4]}),
    "bad_words": ({"bad_words": ((4,), (5, 6))}, {"bad_token_ids": [4], "_bad_word_ids": [[5, 6]]}),
    "temperature": ({"temperature": 0.5}, {"temperature": 0.5, "top_p": 1.0, "top_k": None}),
    "top_k": ({"top_k": 5}, {"top_k": 5, "top_p": None}),
    "top_p": ({"top_p": 0.5}, {"top_p": 0.5}),
    "min_p": ({"min_p": 0.1}, {"min_p": 0.1, "top_p": 1.0, "temperature": 1.0}),
    "seed": ({"seed": 3, "temperature": 0.5}, {"seed": 3}),
    "random_seed": ({"seed": 3, "temperature": 0.5}, {"seed": 3}),
    "repetition_penalty": ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
    "presence_penalty": ({"presence_penalty": 0.5}, {"presence_penalty": 0.5}),
    "frequency_penalty": ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
    "return_log_probs": ({"return_log_probs": True}, {"logprobs": 1}),
    "return_perf_metrics": ({"return_perf_metrics": True}, {"return_perf_metrics": True}),
}
#: Parameters without a field of SamplingParams, or with their own test.
ELSEWHERE = {
    "embedding_bias_words", "embedding_bias_weights",
    "guided_decoding_guide_type", "guided_decoding_guide", "lora_name", "stream",
    "exclude_input_in_output", "num_return_sequences",
}  # fmt: skip


def test_every_parameter_is_in_one_of_the_tables() -> None:
    translated = {name for parameter in PARAMETERS for name in parameter.names}
    assert GIVEN.keys() | ELSEWHERE == translated
    assert translated <= LlmApiEngine.supported
    assert markdown() in DOCS.read_text()


@pytest.mark.parametrize("name", GIVEN)
def test_parameters_become_sampling_params(name: str) -> None:
    values, expected = GIVEN[name]
    params = sampling_params(compat.Api(), request(given=frozenset(values), **values))
    assert {field: getattr(params, field) for field in expected} == expected
    assert params.detokenize is False
    assert params.ignore_eos is False, "it would disable stop words too"


@pytest.mark.parametrize("kind", GUIDES)
def test_guides_become_guided_decoding(kind: str) -> None:
    params = sampling_params(compat.Api(), request(guide=(kind, "x")))
    expected: Any = True if kind == "json" else "x"
    assert getattr(params.guided_decoding, GUIDES[kind]) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guide": ("regexp", "a")}, "did you mean 'regex'?"),
        ({"guide": ("regex", "a")}, "guided_decoding_backend"),
        ({"guide": ("regex", "")}, "guided_decoding_guide is missing; send the regex"),
        ({"end_ids": frozenset((256,))}, "end_id holds the token id 256"),
        ({"embedding_bias": np.zeros(255, dtype=np.float32)}, "but the model has 256 tokens; set"),
        ({"stop_words": ((),)}, "stop_words holds no token ids"),
    ],
)
def test_wrong_requests_are_refused(
    engine: LlmApiEngine, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError) as error:
        engine.submit(request(**values), lambda chunk: None)
    assert message in str(error.value)


def test_a_refusal_of_tensorrt_llm_is_a_request_error(engine: LlmApiEngine) -> None:
    (chunk,) = answer(engine, request(prompt_ids=(1,) * 201))
    assert chunk.refused
    assert "max_num_tokens (200)" in (chunk.error or "")


def test_adapters_by_name(engine: LlmApiEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids(answer(engine, request(lora="fr")))
    with pytest.raises(RequestError, match=r"did you mean 'fr'\?\); this server has fr"):
        engine.submit(request(lora="frr"), lambda chunk: None)
    monkeypatch.setattr(engine, "_adapters", {})
    with pytest.raises(RequestError, match="this server has none, set loras"):
        engine.submit(request(lora="fr"), lambda chunk: None)


def test_out_of_kv_cache_is_one_requests_error(engine: LlmApiEngine) -> None:
    (chunk,) = answer(engine, request(prompt_ids=(1,) * 180, max_tokens=180))
    assert "the KV cache holds 320 in all" in (chunk.error or "")
    assert not chunk.refused
    assert ids(answer(engine, request())), "the engine continues"
    assert engine.died is None


def test_a_dead_executor_ends_all_requests(model_dir: Path) -> None:
    engine = make_engine(model_dir)
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    for _ in range(3):
        engine.submit(request(max_tokens=250), chunks.put)
    while len(engine._llm._executor._results) < 3:
        pass
    engine._llm._executor.fail(RuntimeError("CUDA error: an illegal memory access"))
    errors = [chunks.get(timeout=20).error or "" for _ in range(3)]
    assert all("CUDA error" in error for error in errors), errors
    assert "restart the server" in str(engine.died)
    with pytest.raises(EngineError, match="has died"):
        engine.submit(request(), chunks.put)
    engine.stop()


def test_a_silent_death_is_noticed(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's error is in the queue, and no request gets another step."""
    monkeypatch.setattr(engine_module, "_POLL_S", 0.05)
    engine = make_engine(model_dir)
    monkeypatch.setattr(engine._llm, "generate_async", lambda *a, **k: Played())
    engine._llm._executor._error_queue.put(RuntimeError("worker 1 is gone"))
    (chunk,) = answer(engine, request())
    assert "worker 1 is gone" in (chunk.error or "")
    assert engine.died == chunk.error
    engine.stop()


def test_an_executor_without_requests_fails_visibly() -> None:
    def llm(errors: queue.Queue[Exception], *, down: bool) -> Any:
        executor = SimpleNamespace(is_shutdown=lambda: down, _error_queue=errors)
        return SimpleNamespace(_executor=executor)

    none: queue.Queue[Exception] = queue.Queue()
    assert compat.executor_failure(llm(none, down=False)) is None
    assert compat.executor_failure(llm(none, down=True)) == "its executor has shut down"
    assert compat.executor_failure(SimpleNamespace(_executor=None)) == "its executor has shut down"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"llm_args": '{"tensor_paralel_size": 2}'}, "did you mean 'tensor_parallel_size'?"),
        ({"llm_args": '{"frobnicate": 2}'}, "TensorRT-LLM 1.2.0 has no argument 'frobnicate'"),
        ({"llm_args": "{'a': 1}"}, "llm_args is not JSON"),
        ({"llm_args": "[1]"}, "write an object"),
        ({"llm_args": '{"model": "x"}'}, "llm_args contains 'model', which is set by model_dir"),
        ({"llm_args": '{"max_seq_len": 9}'}, "make them equal"),
        ({"max_seq_len": ""}, "set the most tokens of a sequence"),
        (
            {"max_seq_len": "", "llm_args": '{"max_seq_len": "x"}'},
            "max_seq_len is 'x'; set the most tokens of a sequence",
        ),
        (
            {"llm_args": '{"tensor_parallel_size": null}'},
            "tensor_parallel_size is None; it must be 1 or more",
        ),
        ({"loras": "fr"}, "write name=folder"),
        ({"loras": "fr=/nowhere"}, "there is no folder /nowhere"),
        ({"dtyp": "x"}, "unknown parameter 'dtyp'"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    model_dir: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        LlmApiEngine({"model_dir": str(model_dir), "max_seq_len": "64", **settings})
    assert message in str(error.value)


def test_a_model_that_does_not_build(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"LLM\(\) does not start for .*config.json"):
        make_engine(tmp_path)


@pytest.mark.parametrize(
    ("version", "message"), [("0.20.0", "needs TensorRT-LLM 1.0"), (None, "no module")]
)
def test_another_tensorrt_llm(
    monkeypatch: pytest.MonkeyPatch, model_dir: Path, version: str | None, message: str
) -> None:
    package = None if version is None else SimpleNamespace(__version__=version)
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    with pytest.raises(EngineError, match=message):
        make_engine(model_dir)


def test_the_model_is_split_over_all_ranks(
    monkeypatch: pytest.MonkeyPatch, model_dir: Path
) -> None:
    for name, value in {"RANK": "1", "SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    with pytest.raises(SettingsError, match="4 ranks, but llm_args split the model over 2"):
        make_engine(model_dir, tensor_parallel_size=2)


JOB = (
    "OMPI_COMM_WORLD_RANK", "OMPI_UNIVERSE_SIZE", "OMPI_MCA_orte_ess_num_procs", "PMI_RANK",
    "PMIX_RANK", "PMIX_SERVER_URI41", "ORTE_SCHIZO", "SLURM_PROCID", "SLURM_JOB_ID",
)  # fmt: skip
KEPT = ("PATH", "OMPI_MCA_btl", "PMIX_MCA_gds", "SLURM_CONF", "CUDA_VISIBLE_DEVICES")


def test_variables_of_an_inherited_mpi_job_are_removed() -> None:
    environ = dict.fromkeys((*KEPT, *JOB), "1")
    compat.clear_job(environ)
    assert set(environ) == set(KEPT)


def test_log_probs_of_every_version() -> None:
    entry = SimpleNamespace(logprob=-0.5)
    assert compat.log_probs([{7: entry}, {8: entry}], (7, 8)) == (-0.5, -0.5)
    assert compat.log_probs([-0.25], (7,)) == (-0.25,)
    with pytest.raises(EngineError, match="no log-probability of the generated token 9"):
        compat.log_probs([{7: entry}], (9,))


def test_each_instance_sees_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    own = {"engine": "llmapi", "gpu_device_ids": "0,1; 2,3"}
    settings = ServingSettings.take(own, "x")
    settings.choose_gpus("tensorrt_llm_0_1", "x")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    with pytest.raises(SettingsError, match="has no GPUs for instance 3"):
        settings.choose_gpus("tensorrt_llm_0_2", "x")


def parsed(**texts: str) -> GenerationRequest:
    """The request parsed from tensors with these inputs."""
    more = {name: np.array([[text.encode()]], dtype=np.object_) for name, text in texts.items()}
    base = {"input_ids": np.array([[5]]), "request_output_len": np.array([[1]])}
    (row,) = parse_requests({**base, **more, "return_perf_metrics": np.array([[False]])})
    return row


def test_texts_arrive_as_tensors() -> None:
    row = parsed(lora_name="fr", guided_decoding_guide_type="regex", guided_decoding_guide="é+")
    assert (row.lora, row.guide) == ("fr", ("regex", "é+"))
    assert row.given == {"lora_name", "guided_decoding_guide_type"}
    empty = parsed(lora_name="", guided_decoding_guide_type="", guided_decoding_guide="")
    assert (empty.lora, empty.guide, empty.given) == (None, None, frozenset())
    with pytest.raises(RequestError, match="guided_decoding_guide_type is missing"):
        parsed(guided_decoding_guide="a")
