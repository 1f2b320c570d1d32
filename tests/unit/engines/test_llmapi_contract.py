"""The test double of TensorRT-LLM matches the contract of the real LLM API; the engine uses only
names of that contract."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import tensorrt_llm
from tensorrt_llm import llmapi
from tensorrt_llm.executor.result import CompletionOutput
from tensorrt_llm.llmapi.llm import RequestOutput
from tensorrt_llm.llmapi.llm_args import TorchLlmArgs

from trt_tokenizers.engines.base import GenerationRequest
from trt_tokenizers.engines.llmapi.compat import LLM_ARGUMENTS, Api
from trt_tokenizers.engines.llmapi.sampling import sampling_params

CONTRACT = json.loads((Path(__file__).parents[2] / "fakes" / "llmapi_contract.json").read_text())
#: A request with every parameter of the engine except adapters.
EVERYTHING = GenerationRequest(
    key=1, prompt_ids=(1,), max_tokens=9, stream=True, end_ids=frozenset((2,)), pad_id=3,
    stop_words=((4,), (5, 6)), bad_words=((7,), (8, 9)), temperature=0.5, top_k=10, top_p=0.9,
    repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.2, seed=7,
    return_log_probs=True, return_perf_metrics=True, guide=("regex", "a+"),
    given=frozenset({"temperature"}),
)  # fmt: skip


def test_sampling_params_have_the_contracts_fields_and_defaults() -> None:
    fields = {f.name: f.default for f in dataclasses.fields(llmapi.SamplingParams)}
    public = {name: value for name, value in fields.items() if not name.startswith("_")}
    assert public == CONTRACT["SamplingParams"]
    with pytest.raises(TypeError, match="max_token"):
        llmapi.SamplingParams(max_token=1)


def test_llm_has_the_contracts_arguments() -> None:
    names = {name for name in CONTRACT["LLM"]["init"] if not name.startswith("*")}
    explicit = set(inspect.signature(llmapi.LLM).parameters) - {"kwargs"}
    assert explicit <= names
    assert names - {"_mpi_session"} <= set(TorchLlmArgs.model_fields)
    assert set(TorchLlmArgs.model_fields) | {"backend"} <= LLM_ARGUMENTS
    with pytest.raises(ValueError, match="LLM got invalid argument: tensor_paralel_size"):
        llmapi.LLM("m", tensor_paralel_size=2)
    parameters = {name.split(":")[0] for name in CONTRACT["LLM"]["generate_async"]}
    assert parameters <= set(inspect.signature(llmapi.LLM.generate_async).parameters)
    assert callable(llmapi.LLM.shutdown)


def test_outputs_have_the_contracts_names() -> None:
    for name in CONTRACT["CompletionOutput"]:
        assert hasattr(CompletionOutput(0), name), name
    found = set(inspect.signature(RequestOutput.__init__).parameters) | set(dir(RequestOutput))
    names = {n.split("()")[0] for n in CONTRACT["RequestOutput"] if "iteration" not in n}
    assert names - {"prompt"} <= found
    assert "__aiter__" in found


def test_a_missing_end_id_needs_a_tokenizer() -> None:
    llm = object.__new__(llmapi.LLM)
    llm._executor = type("Up", (), {"is_shutdown": lambda self: False})()
    with pytest.raises(ValueError, match="tokenizer is required"):
        llm.generate_async([1], llmapi.SamplingParams())


def test_the_engine_uses_fields_of_the_contract_only(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, Any] = {}

    def recorded(**values: Any) -> Any:
        used.update(values)
        return tensorrt_llm.SamplingParams(**values)

    api = Api()
    monkeypatch.setattr(api, "sampling_params", recorded)
    params = sampling_params(api, EVERYTHING)
    assert set(used) <= CONTRACT["SamplingParams"].keys()
    assert params._get_bad_words() == [[7], [8, 9]]
    assert params._get_stop_words() == [[4]]
