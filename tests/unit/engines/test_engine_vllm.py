"""The engine `vllm` against ``model.generate`` of a tiny Llama, on a CPU.

Runs in the environment of ``scripts/test --vllm``.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import queue
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

from trt_tokenizers.engines.base import Chunk, FinishReason, GenerationRequest
from trt_tokenizers.engines.vllm import compat, processes
from trt_tokenizers.engines.vllm.engine import VllmEngine
from trt_tokenizers.engines.vllm.sampling import (
    GUIDES,
    sampling_params,
    split_stop_words,
)
from trt_tokenizers.errors import EngineError, RequestError, SettingsError

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's and torch's own
KEYS = itertools.count(1)
PROMPT = (5, 6, 7)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
        initializer_range=0.3, eos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model_dir(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-llama")
    model.save_pretrained(folder)
    return Path(folder)


def make(model_dir: Path, loras: str = "", **engine_args: Any) -> VllmEngine:
    arguments = {
        "dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 32 << 20, **engine_args
    }  # fmt: skip
    settings = {"model_dir": str(model_dir), "max_seq_len": "256", "loras": loras}
    return VllmEngine({**settings, "engine_args": json.dumps(arguments)})


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[VllmEngine]:
    engine = make(model_dir)
    yield engine
    engine.stop()


def request(**values: Any) -> GenerationRequest:
    given = {"prompt_ids": PROMPT, "max_tokens": 12, **values}
    return GenerationRequest(key=next(KEYS), **given)


def answer(engine: VllmEngine, r: GenerationRequest) -> list[Chunk]:
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    engine.submit(r, chunks.put)
    found = [chunks.get(timeout=60)]
    while not found[-1].last:
        found.append(chunks.get(timeout=60))
    return found


def ids(chunks: list[Chunk]) -> list[int]:
    assert chunks[-1].error is None, chunks[-1].error
    return [i for chunk in chunks for i in chunk.token_ids]


@pytest.fixture(scope="module")
def greedy(model: Any) -> list[int]:
    prompt = torch.tensor([PROMPT])
    out = model.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None)
    return list(out[0, len(PROMPT) :].tolist())


def test_greedy_equals_generate(engine: VllmEngine, greedy: list[int]) -> None:
    chunks = answer(engine, request(stream=True))
    assert ids(chunks) == greedy
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert engine.max_seq_len == 256


def test_the_end_id_is_the_last_token(engine: VllmEngine, greedy: list[int]) -> None:
    chunks = answer(engine, request(end_ids=frozenset((greedy[3],))))
    assert ids(chunks) == greedy[: greedy.index(greedy[3]) + 1]
    assert chunks[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("length", [1, 2, 3])
def test_stop_words_end_the_answer_and_are_emitted(
    engine: VllmEngine, greedy: list[int], length: int
) -> None:
    word = tuple(greedy[5 : 5 + length])
    end = next(i for i in range(12) if tuple(greedy[i : i + length]) == word) + length
    chunks = answer(engine, request(stop_words=(word,)))
    assert ids(chunks) == greedy[:end]
    assert chunks[-1].finish_reason is FinishReason.STOP


def test_a_stop_word_may_appear_before_min_tokens(engine: VllmEngine, greedy: list[int]) -> None:
    chunks = answer(engine, request(stop_words=((greedy[2],),), min_tokens=8))
    assert ids(chunks)[:8] == greedy[:8]


def test_no_end_id_before_min_tokens(engine: VllmEngine, greedy: list[int]) -> None:
    found = ids(answer(engine, request(end_ids=frozenset((greedy[2],)), min_tokens=8)))
    assert len(found) >= 8
    assert greedy[2] not in found[:8]


def test_bad_words_of_any_length_do_not_appear(engine: VllmEngine, greedy: list[int]) -> None:
    for word in ((greedy[2],), tuple(greedy[2:4])):
        found = ids(answer(engine, request(bad_words=(word,))))
        assert found != greedy
        assert all(tuple(found[i : i + len(word)]) != word for i in range(len(found)))


def test_embedding_bias(engine: VllmEngine, model: Any, greedy: list[int]) -> None:
    bias = np.zeros(256, dtype=np.float32)
    bias[[greedy[3], 9]] = -50, 1.5
    out = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=None,
        sequence_bias=[[[greedy[3]], -50.0], [[9], 1.5]],
    )  # fmt: skip
    assert ids(answer(engine, request(embedding_bias=bias))) == out[0, len(PROMPT) :].tolist()


def test_repetition_penalty_equals_generate(engine: VllmEngine, model: Any) -> None:
    out = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=None,
        repetition_penalty=1.3,
    )  # fmt: skip
    found = ids(answer(engine, request(repetition_penalty=1.3)))
    assert found == out[0, len(PROMPT) :].tolist()


def test_a_seed_gives_the_same_and_none_does_not(engine: VllmEngine) -> None:
    hot = {"temperature": 2.0, "given": frozenset({"temperature"})}
    seed = 2**64 - 1
    first, second = (ids(answer(engine, request(seed=seed, **hot))) for _ in range(2))
    assert first == second
    drawn = {tuple(ids(answer(engine, request(**hot)))) for _ in range(4)}
    assert len(drawn) == 4


def test_log_probs_and_figures(engine: VllmEngine, model: Any, greedy: list[int]) -> None:
    chunks = answer(engine, request(stream=True, return_log_probs=True, return_perf_metrics=True))
    found = [value for chunk in chunks for value in chunk.log_probs]
    with torch.no_grad():
        scores = model(torch.tensor([[*PROMPT, *greedy]])).logits[0].log_softmax(-1)
    positions = range(len(PROMPT) - 1, len(PROMPT) + 11)
    expected = [scores[i, t].item() for i, t in zip(positions, greedy, strict=True)]
    assert found == pytest.approx(expected, abs=5e-3)
    perf = chunks[-1].perf
    assert perf is not None
    assert 0 < perf["arrival_time_ns"] <= perf["first_scheduled_time_ns"]
    assert perf["first_scheduled_time_ns"] <= perf["first_token_time_ns"]
    assert perf["first_token_time_ns"] <= perf["last_token_time_ns"]


def test_log_probs_are_those_after_processing(engine: VllmEngine, greedy: list[int]) -> None:
    (first, *_) = answer(
        engine,
        request(max_tokens=1, return_log_probs=True, top_k=2, temperature=1.0, seed=1,
                given=frozenset({"top_k"})),
    )  # fmt: skip
    assert np.exp(first.log_probs[0]) > 0.05, "of two tokens, not of 256"


def test_cancel(engine: VllmEngine) -> None:
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    r = request(max_tokens=250, stream=True)
    engine.submit(r, chunks.put)
    assert not chunks.get(timeout=60).last
    engine.cancel(r.key)
    while not (chunk := chunks.get(timeout=20)).last:
        pass
    assert chunk.finish_reason is FinishReason.CANCELLED
    engine.cancel(r.key)
    assert ids(answer(engine, request())), "the engine serves other requests"
    deadline = time.monotonic() + 10
    while engine._llm.output_processor.has_unfinished_requests():
        assert time.monotonic() < deadline, "vLLM still generates the cancelled answer"
        time.sleep(0.05)


def test_statistics_are_gauges(engine: VllmEngine) -> None:
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    r = request(max_tokens=250, stream=True)
    engine.submit(r, chunks.put)
    for _ in range(4):
        chunks.get(timeout=60)
    usage = engine.gauges["engine_kv_cache_usage"]()
    engine.cancel(r.key)
    assert 0 < usage <= 1
    assert engine.gauges["engine_requests_waiting"]() == 0


#: Client's parameter -> fields of a request, expected fields of SamplingParams.
GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "max_tokens": ({"max_tokens": 5}, {"max_tokens": 5}),
    "min_tokens": ({"min_tokens": 4}, {"min_tokens": 4}),
    "end_id": ({"end_ids": frozenset((9,))}, {"stop_token_ids": [9], "ignore_eos": True}),
    "stop_words": ({"stop_words": ((4,), (5, 6))}, {"stop_token_ids": [4]}),
    "bad_words": ({"bad_words": ((4,), (5, 6))}, {"bad_words_token_ids": [[4], [5, 6]]}),
    "temperature": ({"temperature": 0.5}, {"temperature": 0.5, "top_p": 1.0, "top_k": 0}),
    "top_k": ({"top_k": 5}, {"top_k": 5, "temperature": 1.0}),
    "top_p": ({"top_p": 0.5}, {"top_p": 0.5, "temperature": 1.0}),
    "min_p": ({"min_p": 0.25}, {"min_p": 0.25, "temperature": 1.0}),
    "seed": ({"seed": 3, "temperature": 0.5}, {"seed": 3}),
    "repetition_penalty": ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
    "presence_penalty": ({"presence_penalty": 0.5}, {"presence_penalty": 0.5}),
    "frequency_penalty": ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
    "return_log_probs": ({"return_log_probs": True}, {"logprobs": 0}),
}


@pytest.mark.parametrize("name", GIVEN)
def test_parameters_become_sampling_params(name: str) -> None:
    assert name in VllmEngine.supported
    values, expected = GIVEN[name]
    params = sampling_params(compat.Api(), request(given=frozenset(values), **values))
    assert {field: getattr(params, field) for field in expected} == expected
    assert params.detokenize is False


def test_a_request_without_sampling_parameters_is_greedy() -> None:
    assert sampling_params(compat.Api(), request()).temperature == 0


def test_long_stop_words_are_found_here() -> None:
    words = ((4,), (5, 6))
    assert split_stop_words(request(stop_words=words)) == ([4], [(5, 6)])
    assert split_stop_words(request(stop_words=words, min_tokens=2)) == ([], list(words))


@pytest.mark.parametrize("kind", GUIDES)
def test_guides_become_structured_outputs(kind: str) -> None:
    params = sampling_params(compat.Api(), request(guide=(kind, "x")))
    expected: Any = True if kind == "json" else "x"
    assert getattr(params.structured_outputs, GUIDES[kind]) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guide": ("regexp", "a")}, "did you mean 'regex'?"),
        ({"guide": ("regex", "a")}, "skip_tokenizer_init=false"),
        ({"guide": ("regex", "")}, "guided_decoding_guide is missing; send the regex"),
        ({"end_ids": frozenset((256,))}, "end_id holds the token id 256"),
        ({"embedding_bias": np.zeros(255, dtype=np.float32)}, "the model has 256 tokens"),
        ({"stop_words": ((),)}, "stop_words holds no token ids"),
        ({"lora": "fr"}, "this server has none, set loras"),
    ],
)
def test_what_cannot_be_served_is_refused(
    engine: VllmEngine, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError) as error:
        engine.submit(request(**values), lambda chunk: None)
    assert message in str(error.value)


def test_what_vllm_refuses_is_the_clients_fault(engine: VllmEngine) -> None:
    (chunk,) = answer(engine, request(prompt_ids=(1,) * 300))
    assert chunk.refused
    assert "maximum" in (chunk.error or ""), chunk.error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine_args": '{"tensor_paralel_size": 2}'}, "did you mean 'tensor_parallel_size'?"),
        ({"engine_args": "{'a': 1}"}, "engine_args is not JSON"),
        ({"engine_args": "[1]"}, "write an object"),
        ({"engine_args": '{"model": "x"}'}, "engine_args contains 'model', which is set by"),
        ({"engine_args": '{"max_model_len": 9}'}, "make them equal"),
        ({"engine_args": '{"dtype": "float99"}'}, "vLLM refuses engine_args"),
        ({"loras": "fr"}, "write name=folder"),
        ({"loras": "fr=/nowhere"}, "there is no folder /nowhere"),
        ({"loras": "fr=/tmp"}, "loras needs enable_lora"),
        ({"dtyp": "x"}, "unknown parameter 'dtyp'"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    model_dir: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        VllmEngine({"model_dir": str(model_dir), "max_seq_len": "64", **settings})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def equipped(
    model: Any, bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VllmEngine, Any, Any]]:
    """An engine with a tokenizer and an adapter; the model with the adapter, and the tokenizer."""
    folder = tmp_path_factory.mktemp("equipped")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**model.config.to_dict(), "vocab_size": 600})
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
    engine = make(
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
    with pytest.raises(RequestError, match=r"did you mean 'fr'\?\); this server has fr"):
        engine.submit(request(lora="frr"), lambda chunk: None)


def test_the_answer_follows_a_guide(equipped: tuple[VllmEngine, Any, Any]) -> None:
    engine, _, tokenizer = equipped
    end = frozenset((0, 2))  # of generation_config.json
    chunks = answer(engine, request(guide=("regex", "[0-9]{4}"), end_ids=end))
    assert re.fullmatch("[0-9]{4}", tokenizer.decode(ids(chunks), skip_special_tokens=True))
    assert chunks[-1].finish_reason is FinishReason.STOP
    (chunk,) = answer(engine, request(guide=("regex", "[0-9"), end_ids=end))
    assert chunk.refused


def test_a_start_that_fails_gives_the_reason_of_the_worker(model_dir: Path) -> None:
    message = r"does not start for .*No available memory for the cache"
    with pytest.raises(EngineError, match=message) as error:
        make(model_dir, kv_cache_memory_bytes=1000)
    assert "\n" not in str(error.value)


def test_a_killed_engine_core_fails_all_requests(model_dir: Path) -> None:
    engine = make(model_dir)
    (core,) = engine._processes
    assert core.pid is not None
    workers = children(core.pid)
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    for _ in range(3):
        engine.submit(request(max_tokens=250), chunks.put)
    os.kill(core.pid, signal.SIGKILL)
    errors = []
    while len(errors) < 3:
        chunk = chunks.get(timeout=20)
        errors += [chunk.error] if chunk.last else []
    assert all("has died: its process EngineCore ended with exit code -9" in str(e) for e in errors)
    assert engine.died
    with pytest.raises(EngineError, match="has died"):
        engine.submit(request(), chunks.put)
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker survived"
        time.sleep(0.05)
    engine.stop()


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(p) for p in (task / "children").read_text().split()]
    return found


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
