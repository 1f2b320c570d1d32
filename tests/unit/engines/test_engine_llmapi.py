"""The engine llmapi on the test double of TensorRT-LLM: what it does not share with `vllm`."""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tensorrt_llm  # noqa: E402

from library_engines import answer, begin, ids, make_engine, request, rest  # noqa: E402
from trt_tokenizers.engines.base import FinishReason, GenerationRequest  # noqa: E402
from trt_tokenizers.engines.llmapi import compat  # noqa: E402
from trt_tokenizers.engines.llmapi.engine import LlmApiEngine  # noqa: E402
from trt_tokenizers.engines.llmapi.sampling import sampling_params  # noqa: E402
from trt_tokenizers.engines.serving_settings import ServingSettings  # noqa: E402
from trt_tokenizers.engines.tensors import parse_requests  # noqa: E402
from trt_tokenizers.errors import EngineError, RequestError, SettingsError  # noqa: E402


@pytest.fixture(scope="module")
def engine(tiny_llama_dir: Path) -> Iterator[LlmApiEngine]:
    engine = make_engine(
        "llmapi", tiny_llama_dir, f"fr={tiny_llama_dir}", lora_config={"max_lora_rank": 8},
        max_num_tokens=200, kv_cache_config={"max_tokens": 320},
    )  # fmt: skip
    yield engine
    engine.stop()


def test_steps_hold_all_tokens_so_far(engine: LlmApiEngine, greedy: list[int]) -> None:
    chunks = answer(engine, request(stream=True, return_perf_metrics=True))
    assert [chunk.token_ids for chunk in chunks] == [(token,) for token in greedy]
    assert (chunks[-1].perf or {})["total_draft_tokens"] == 0


def test_the_bias_is_a_float32_tensor() -> None:
    params = sampling_params(compat.Api(), request(embedding_bias=np.ones(256, dtype=np.float32)))
    assert params.embedding_bias.dtype is torch.float32


def test_an_adapter_by_name(engine: LlmApiEngine) -> None:
    assert ids(answer(engine, request(lora="fr")))


class Played:
    """A result of generate_async with one step, then without an end."""

    finished = False
    aborted = 0

    def abort(self) -> None:
        self.aborted += 1

    async def __aiter__(self) -> AsyncIterator[Any]:
        output = SimpleNamespace(token_ids=[1], finish_reason=None, logprobs=[])
        yield SimpleNamespace(finished=False, outputs=[output])
        await asyncio.Event().wait()


@pytest.fixture
def played(engine: LlmApiEngine, monkeypatch: pytest.MonkeyPatch) -> Played:
    result = Played()
    monkeypatch.setattr(engine._llm, "generate_async", lambda *a, **k: result)
    return result


@pytest.mark.parametrize("how", ["cancelled", "fewer log-probs than tokens"])
def test_a_request_that_ends_here_is_aborted(
    engine: LlmApiEngine, played: Played, how: str
) -> None:
    """Otherwise TensorRT-LLM would continue to generate."""
    r = request(stream=True, return_log_probs=how != "cancelled")
    chunks = begin(engine, r)
    if how == "cancelled":
        assert chunks.get(timeout=20).token_ids == (1,)
        engine.cancel(r.key)
    assert chunks.get(timeout=20).last
    deadline = time.monotonic() + 20
    while not played.aborted:
        assert time.monotonic() < deadline
    assert played.aborted == 1


def test_an_abort_that_fails_leaves_the_request_answered(
    engine: LlmApiEngine, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(played, "abort", None)  # a TypeError
    r = request(stream=True)
    chunks = begin(engine, r)
    chunks.get(timeout=20)
    engine.cancel(r.key)
    assert chunks.get(timeout=5).finish_reason is FinishReason.CANCELLED
    monkeypatch.undo()
    assert ids(answer(engine, request()))


@pytest.mark.parametrize("error", [tensorrt_llm.executor.RequestError("no"), RuntimeError("no")])
def test_only_a_request_error_is_the_clients(
    engine: LlmApiEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*given: Any, **named: Any) -> Any:
        raise error

    monkeypatch.setattr(engine._llm, "generate_async", failing)
    (chunk,) = answer(engine, request())
    assert chunk.refused is (type(error) is not RuntimeError)


#: Parameter of the ensemble -> (fields of the request, expected fields of SamplingParams).
GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "max_tokens": ({"max_tokens": 5}, {"max_tokens": 5}),
    "min_tokens": ({"min_tokens": 4}, {"min_tokens": 4}),
    "end_id": ({"end_ids": frozenset((9,))}, {"end_id": 9}),
    "pad_id": ({"pad_id": 8}, {"pad_id": 8}),
    "stop_words": ({"stop_words": ((4,), (5, 6))}, {"stop_token_ids": [4]}),
    "bad_words": ({"bad_words": ((4,), (5, 6))}, {"bad_token_ids": [4], "_bad_word_ids": [[5, 6]]}),
    "temperature": ({"temperature": 0.5}, {"temperature": 0.5, "top_p": 1.0, "top_k": None}),
    "top_k": ({"top_k": 5}, {"top_k": 5, "top_p": None}),
    "top_p": ({"top_p": 0.5}, {"top_p": 0.5}),
    "min_p": ({"min_p": 0.1}, {"min_p": 0.1, "top_p": 1.0, "temperature": 1.0}),
    "seed": ({"seed": 3, "temperature": 0.5}, {"seed": 3}),
    "return_log_probs": ({"return_log_probs": True}, {"logprobs": 1}),
    "return_perf_metrics": ({"return_perf_metrics": True}, {"return_perf_metrics": True}),
}


@pytest.mark.parametrize("name", GIVEN)
def test_parameters_become_sampling_params(name: str) -> None:
    values, expected = GIVEN[name]
    params = sampling_params(compat.Api(), request(given=frozenset(values), **values))
    assert {field: getattr(params, field) for field in expected} == expected
    assert params.detokenize is False
    assert params.ignore_eos is False, "it would disable stop words too"


def test_a_refusal_of_tensorrt_llm_is_a_request_error(engine: LlmApiEngine) -> None:
    (chunk,) = answer(engine, request(prompt_ids=(1,) * 201))
    assert chunk.refused
    assert "max_num_tokens (200)" in (chunk.error or "")


def test_out_of_kv_cache_is_one_requests_error(engine: LlmApiEngine) -> None:
    (chunk,) = answer(engine, request(prompt_ids=(1,) * 180, max_tokens=180))
    assert "the KV cache holds 320 in all" in (chunk.error or "")
    assert not chunk.refused
    assert ids(answer(engine, request())), "the engine continues"
    assert engine.died is None


def test_a_dead_executor_ends_all_requests(tiny_llama_dir: Path) -> None:
    engine = make_engine("llmapi", tiny_llama_dir)
    all_chunks = [begin(engine, request(max_tokens=250)) for _ in range(3)]
    while len(engine._llm._executor._results) < 3:
        pass
    engine._llm._executor.fail(RuntimeError("CUDA error: an illegal memory access"))
    errors = [rest(chunks)[-1].error or "" for chunks in all_chunks]
    assert all("CUDA error" in error for error in errors), errors
    assert "restart the server" in str(engine.died)
    engine.stop()


def test_an_executor_without_requests_fails_visibly() -> None:
    def llm(errors: queue.Queue[Exception], *, down: bool) -> Any:
        executor = SimpleNamespace(is_shutdown=lambda: down, _error_queue=errors)
        return SimpleNamespace(_executor=executor)

    none: queue.Queue[Exception] = queue.Queue()
    assert compat.executor_failure(llm(none, down=False)) is None
    assert compat.executor_failure(llm(none, down=True)) == "its executor has shut down"
    none.put(RuntimeError("worker 1 is gone"))
    assert compat.executor_failure(llm(none, down=False)) == "RuntimeError: worker 1 is gone"
    assert compat.executor_failure(SimpleNamespace(_executor=None)) == "its executor has shut down"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"llm_args": '{"frobnicate": 2}'}, "TensorRT-LLM 1.2.0 has no argument 'frobnicate'"),
        ({"max_seq_len": ""}, "set the most tokens of a sequence"),
        (
            {"max_seq_len": "", "llm_args": '{"max_seq_len": "x"}'},
            "max_seq_len is 'x'; set the most tokens of a sequence",
        ),
        (
            {"llm_args": '{"tensor_parallel_size": null}'},
            "tensor_parallel_size is None; it must be 1 or more",
        ),
    ],
)
def test_settings_that_tensorrt_llm_cannot_use(
    tiny_llama_dir: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        LlmApiEngine({"model_dir": str(tiny_llama_dir), "max_seq_len": "64", **settings})
    assert message in str(error.value)


def test_a_model_that_does_not_build(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"LLM\(\) does not start for .*config.json"):
        make_engine("llmapi", tmp_path)


@pytest.mark.parametrize(
    ("version", "message"), [("0.20.0", "needs TensorRT-LLM 1.0"), (None, "no module")]
)
def test_another_tensorrt_llm(
    monkeypatch: pytest.MonkeyPatch, tiny_llama_dir: Path, version: str | None, message: str
) -> None:
    package = None if version is None else SimpleNamespace(__version__=version)
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    with pytest.raises(EngineError, match=message):
        make_engine("llmapi", tiny_llama_dir)


def test_the_model_is_split_over_all_ranks(
    monkeypatch: pytest.MonkeyPatch, tiny_llama_dir: Path
) -> None:
    for name, value in {"RANK": "1", "SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    with pytest.raises(SettingsError, match="4 ranks, but llm_args split the model over 2"):
        make_engine("llmapi", tiny_llama_dir, tensor_parallel_size=2)


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


def test_a_guide_that_xgrammar_refuses(
    tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check itself is tested in test_engine_vllm.py, whose environment has XGrammar."""

    class Grammar:
        @staticmethod
        def from_regex(pattern: str) -> None:
            if pattern == "[0-9":
                raise RuntimeError("[12:00:00] /a/b.cc:83: Unclosed '['")

    monkeypatch.setitem(sys.modules, "xgrammar", SimpleNamespace(Grammar=Grammar))
    engine = make_engine("llmapi", tiny_llama_dir, guided_decoding_backend="xgrammar")
    message = r"^guided_decoding_guide is no regex that .*: Unclosed '\['; correct it$"
    with pytest.raises(RequestError, match=message):
        engine.submit(request(guide=("regex", "[0-9")), print)
    assert ids(answer(engine, request(guide=("regex", "[0-9]"))))
    engine.stop()
