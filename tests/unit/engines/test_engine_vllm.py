"""The engine `vllm` on a CPU: what it does not share with `llmapi`.

Runs in the environment of ``scripts/test --vllm``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="not applicable: vLLM is not installed")
import safetensors.torch
import torch
import transformers

from library_engines import PROMPT, answer, begin, ids, make_engine, request, rest
from trt_tokenizers.engines.base import FinishReason
from trt_tokenizers.engines.llmapi import compat as llmapi_compat
from trt_tokenizers.engines.vllm import compat, processes
from trt_tokenizers.engines.vllm.engine import VllmEngine
from trt_tokenizers.engines.vllm.sampling import sampling_params
from trt_tokenizers.errors import EngineError, RequestError, SettingsError
from trt_tokenizers.launcher.process_tree import children

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's and torch's own


@pytest.fixture(scope="module")
def engine(tiny_llama_dir: Path) -> Iterator[VllmEngine]:
    engine = make_engine("vllm", tiny_llama_dir)
    yield engine
    engine.stop()


def test_log_probs_are_those_after_processing(engine: VllmEngine, greedy: list[int]) -> None:
    (first, *_) = answer(
        engine,
        request(max_tokens=1, return_log_probs=True, top_k=2, temperature=1.0, seed=1,
                given=frozenset({"top_k"})),
    )  # fmt: skip
    assert np.exp(first.log_probs[0]) > 0.05, "of two tokens, not of 256"


def test_a_cancelled_request_is_aborted(engine: VllmEngine) -> None:
    r = request(max_tokens=250, stream=True)
    chunks = begin(engine, r)
    assert not chunks.get(timeout=60).last
    engine.cancel(r.key)
    deadline = time.monotonic() + 10
    while engine._llm.output_processor.has_unfinished_requests():
        assert time.monotonic() < deadline, "vLLM still generates the cancelled answer"
        time.sleep(0.05)


def test_statistics_are_gauges(engine: VllmEngine) -> None:
    r = request(max_tokens=250, stream=True)
    chunks = begin(engine, r)
    for _ in range(4):
        chunks.get(timeout=60)
    usage = engine.gauges["engine_kv_cache_usage"]()
    engine.cancel(r.key)
    assert 0 < usage <= 1
    assert engine.gauges["engine_requests_waiting"]() == 0
    assert len(engine._llm.logger_manager.stat_loggers) == 1, "vLLM's own cost time for each token"


#: Client's parameter -> fields of a request, expected fields of SamplingParams.
GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "max_tokens": ({"max_tokens": 5}, {"max_tokens": 5}),
    "min_tokens": ({"min_tokens": 4}, {"min_tokens": 4}),
    "end_id": ({"end_ids": frozenset((9,))}, {"stop_token_ids": [9], "ignore_eos": True}),
    "stop_words": ({"stop_words": ((4,), (5, 6))}, {"stop_token_ids": [4]}),
    "bad_words": ({"bad_words": ((4,), (5, 6))}, {"bad_words_token_ids": [[4], [5, 6]]}),
    "temperature": ({"temperature": 0.5}, {"temperature": 0.5, "top_p": 1.0, "top_k": 0}),
    "seed": ({"seed": 3, "temperature": 0.5}, {"seed": 3}),
    "return_log_probs": ({"return_log_probs": True}, {"logprobs": 0}),
}


@pytest.mark.parametrize("name", GIVEN)
def test_parameters_become_sampling_params(name: str) -> None:
    assert name in VllmEngine.supported
    values, expected = GIVEN[name]
    params = sampling_params(compat.Api(), request(given=frozenset(values), **values))
    assert {field: getattr(params, field) for field in expected} == expected
    assert params.detokenize is False


def test_what_vllm_refuses_is_the_clients_fault(engine: VllmEngine) -> None:
    (chunk,) = answer(engine, request(prompt_ids=(1,) * 300))
    assert chunk.refused
    assert "maximum" in (chunk.error or ""), chunk.error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine_args": '{"dtype": "float99"}'}, "vLLM refuses engine_args"),
        ({"loras": "fr=/tmp"}, "loras needs enable_lora"),
    ],
)
def test_settings_that_vllm_cannot_use(
    tiny_llama_dir: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        VllmEngine({"model_dir": str(tiny_llama_dir), "max_seq_len": "64", **settings})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def equipped(
    tiny_llama: Any, bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VllmEngine, Any, Any]]:
    """An engine with a tokenizer and an adapter; the model with the adapter, and the tokenizer."""
    folder = tmp_path_factory.mktemp("equipped")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**tiny_llama.config.to_dict(), "vocab_size": 600})
    merged = transformers.LlamaForCausalLM(config).eval()
    merged.save_pretrained(folder / "model")
    for file in bpe_dir.iterdir():
        shutil.copy(file, folder / "model")
    adapter = folder / "adapter"
    adapter.mkdir()
    weights = {}
    for number, layer in enumerate(merged.model.layers):
        projection = layer.self_attn.q_proj
        a, b = torch.randn(4, 64), torch.randn(64, 4)
        projection.weight.data += b @ a
        name = f"base_model.model.model.layers.{number}.self_attn.q_proj.lora_"
        weights |= {f"{name}A.weight": a, f"{name}B.weight": b}
    safetensors.torch.save_file(weights, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"]})
    )
    engine = make_engine("vllm",
        folder / "model", loras=f"fr={adapter}", enable_lora=True, max_lora_rank=8,
        skip_tokenizer_init=False,
    )  # fmt: skip
    yield engine, merged, transformers.AutoTokenizer.from_pretrained(folder / "model")
    engine.stop()


def test_an_adapter_by_name(equipped: tuple[VllmEngine, Any, Any]) -> None:
    engine, merged, _ = equipped
    out = merged.generate(
        torch.tensor([PROMPT]), max_new_tokens=8, do_sample=False, eos_token_id=None
    )
    expected = out[0, len(PROMPT) :].tolist()
    assert ids(answer(engine, request(max_tokens=8, lora="fr"))) == expected
    assert ids(answer(engine, request(max_tokens=8))) != expected


def test_the_answer_follows_a_guide(equipped: tuple[VllmEngine, Any, Any]) -> None:
    engine, _, tokenizer = equipped
    end = frozenset((0, 2))  # of generation_config.json
    chunks = answer(engine, request(guide=("regex", "[0-9]{4}"), end_ids=end))
    assert re.fullmatch("[0-9]{4}", tokenizer.decode(ids(chunks), skip_special_tokens=True))
    assert chunks[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("kind", "guide", "why"),
    [
        ("json_schema", '{"type": "strin"}', 'Unsupported type "strin"'),
        ("json_schema", '{"type": ', "line 1 column 10"),
        ("json_schema", '{"items":' * 5_000 + "{}" + "}" * 5_000, "nest"),
        ("json_schema", '{"type": "integer", "multipleOf": 2}', "features not supported"),
        ("regex", "[0-9", "Unclosed"),
        ("ebnf_grammar", 'root ::= "a" b', 'Rule "b" is not defined'),
        ("structural_tag", '{"type": "structural_tag", "format": {"type": "no"}}', "Format type"),
        ("structural_tag", "{", "line 1 column 2"),
    ],
)
def test_a_guide_that_does_not_compile(
    equipped: tuple[VllmEngine, Any, Any], kind: str, guide: str, why: str
) -> None:
    """It is refused, and the engine lives on."""
    engine, _, _ = equipped
    (chunk,) = answer(engine, request(guide=(kind, guide)))
    assert chunk.refused
    message = str(chunk.error)
    begin = f"guided_decoding_guide is no {kind} that this engine can follow: "
    assert message.startswith(begin)
    assert why in message
    assert "/xgrammar/" not in message
    assert "\n" not in message
    assert len(ids(answer(engine, request(max_tokens=2)))) == 2


@pytest.mark.parametrize(
    ("kind", "guide", "message"),
    [
        ("json_schema", '{"type": "strin"}', 'Unsupported type "strin"'),
        ("regex", "[0-9", "Regex parsing error at position 5: Unclosed"),
        ("ebnf_grammar", 'root ::= "a" b', 'line 1, column 14: Rule "b" is not defined'),
        ("structural_tag", '{"format": {"type": "no"}}', "Format type not recognized"),
        ("structural_tag", "{", "Expecting property name"),
    ],
)
def test_guides_that_llmapi_refuses(kind: str, guide: str, message: str) -> None:
    """By XGrammar, which TensorRT-LLM and vLLM require."""
    begin = f"guided_decoding_guide is no {kind} that this engine can follow: "
    with pytest.raises(RequestError, match=rf"^{begin}[A-Z]") as error:
        llmapi_compat.check_guide(kind, guide)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("kind", "guide"),
    [
        ("json", ""), ("json_schema", '{"type": "integer"}'), ("regex", "[0-9]"),
        ("structural_tag", '{"format": {"type": "const_string", "value": "a"}}'),
        ("structural_tag", '{"structures": [], "triggers": []}'),
    ],
)  # fmt: skip
def test_guides_that_llmapi_takes(kind: str, guide: str) -> None:
    llmapi_compat.check_guide(kind, guide)


def test_a_start_that_fails_gives_the_reason_of_the_worker(tiny_llama_dir: Path) -> None:
    message = r"does not start for .*No available memory for the cache"
    with pytest.raises(EngineError, match=message) as error:
        make_engine("vllm", tiny_llama_dir, kv_cache_memory_bytes=1000)
    assert "\n" not in str(error.value)


def test_a_killed_engine_core_fails_all_requests(tiny_llama_dir: Path) -> None:
    engine = make_engine("vllm", tiny_llama_dir)
    (core,) = engine._processes
    assert core.pid is not None
    workers = children(core.pid)
    all_chunks = [begin(engine, request(max_tokens=250)) for _ in range(3)]
    os.kill(core.pid, signal.SIGKILL)
    errors = [rest(chunks)[-1].error for chunks in all_chunks]
    assert all("has died: its process EngineCore ended with exit code -9" in str(e) for e in errors)
    assert engine.died
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker survived"
        time.sleep(0.05)
    engine.stop()


def test_the_first_error_is_the_cause(tmp_path: Path) -> None:
    file = tmp_path / "errors"
    assert processes.first_error(file, 0) is None
    file.write_text("1.0 ValueError: old\n5.5 ValueError: cause\n6.0 RuntimeError: peer is gone\n")
    assert processes.first_error(file, 5) == "ValueError: cause"
    assert processes.first_error(file, 7) is None


def test_shared_memory_is_named_for_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"trt-launch-test{os.getpid()}-r0-vllm-"
    monkeypatch.setenv("TRT_TOKENIZERS_VLLM_SHM_PREFIX", prefix)
    monkeypatch.setattr(processes, "signal", SimpleNamespace(SIGKILL=0))  # this process stays
    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing.shared_memory, "_make_filename", None)
    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "_make_name", None)
    processes._enter()
    shm = Path("/dev/shm")
    segment = multiprocessing.shared_memory.SharedMemory(create=True, size=16)
    lock = context.Lock()
    try:
        assert segment.name.startswith(prefix)
        links = [path for path in shm.glob(f"{prefix}*") if path.is_symlink()]
        assert [path.resolve().exists() for path in links] == [True]
        assert links[0].resolve().name.startswith("sem.")
    finally:
        segment.close()
        segment.unlink()
        del lock
        for path in shm.glob(f"{prefix}*"):
            path.unlink()
