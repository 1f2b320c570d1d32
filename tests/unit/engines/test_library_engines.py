"""The engines `llmapi` and `vllm` on a CPU, compared with ``model.generate``.

llmapi runs on the test double of TensorRT-LLM; vllm in the environment of ``scripts/test --vllm``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from library_engines import ENGINES, PROMPT, answer, begin, ids, make_engine, request, rest
from trt_tokenizers.engines.base import FinishReason
from trt_tokenizers.engines.event_loop import EventLoopEngine
from trt_tokenizers.engines.sampling_params import COMMON, GUIDES
from trt_tokenizers.errors import SettingsError

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's and torch's own
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=ENGINES)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "vllm":
        pytest.importorskip("vllm", reason="not applicable: vLLM is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
def engine(kind: str, tiny_llama_dir: Path) -> Iterator[EventLoopEngine]:
    engine = make_engine(kind, tiny_llama_dir)
    yield engine
    engine.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_greedy_equals_generate(engine: EventLoopEngine, greedy: list[int], stream: bool) -> None:
    chunks = answer(engine, request(stream=stream))
    assert ids(chunks) == greedy
    assert (len(chunks) > 1) is stream
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert engine.max_seq_len == 256


def test_the_end_id_is_the_last_token(engine: EventLoopEngine, greedy: list[int]) -> None:
    chunks = answer(engine, request(end_ids=frozenset((greedy[3],))))
    assert ids(chunks) == greedy[: greedy.index(greedy[3]) + 1]
    assert chunks[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_stop_words_end_the_answer_and_are_emitted(
    engine: EventLoopEngine, greedy: list[int], length: int, stream: bool
) -> None:
    word = tuple(greedy[5 : 5 + length])
    end = next(i for i in range(12) if tuple(greedy[i : i + length]) == word) + length
    chunks = answer(engine, request(stop_words=(word,), stream=stream))
    assert ids(chunks) == greedy[:end]
    assert chunks[-1].finish_reason is FinishReason.STOP


def test_min_tokens(engine: EventLoopEngine, greedy: list[int]) -> None:
    """Before, stop words may appear without an effect, and end ids do not appear."""
    chunks = answer(engine, request(stop_words=((greedy[2],),), min_tokens=8))
    assert ids(chunks)[:8] == greedy[:8]
    found = ids(answer(engine, request(end_ids=frozenset((greedy[2],)), min_tokens=8)))
    assert len(found) >= 8
    assert greedy[2] not in found[:8]


def test_bad_words_of_any_length_do_not_appear(engine: EventLoopEngine, greedy: list[int]) -> None:
    for word in ((greedy[2],), tuple(greedy[2:4])):
        found = ids(answer(engine, request(bad_words=(word,))))
        assert found != greedy
        assert all(tuple(found[i : i + len(word)]) != word for i in range(len(found)))


def test_embedding_bias(engine: EventLoopEngine, tiny_llama: Any, greedy: list[int]) -> None:
    """The bias acts like transformers' sequence_bias for single tokens."""
    bias = np.zeros(256, dtype=np.float32)
    bias[[greedy[3], 9]] = -50, 1.5
    bias.flags.writeable = False  # as Triton's are
    out = tiny_llama.generate(
        torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=None,
        sequence_bias=[[[greedy[3]], -50.0], [[9], 1.5]],
    )  # fmt: skip
    found = ids(answer(engine, request(embedding_bias=bias)))
    assert found == out[0, len(PROMPT) :].tolist()
    assert found != greedy


def test_repetition_penalty_equals_generate(engine: EventLoopEngine, tiny_llama: Any) -> None:
    out = tiny_llama.generate(
        torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=None,
        repetition_penalty=1.3,
    )  # fmt: skip
    found = ids(answer(engine, request(repetition_penalty=1.3)))
    assert found == out[0, len(PROMPT) :].tolist()


def test_a_seed_gives_the_same_and_none_does_not(engine: EventLoopEngine) -> None:
    hot = {"temperature": 2.0, "given": frozenset({"temperature"})}
    seed = 2**64 - 1
    first, second = (ids(answer(engine, request(seed=seed, **hot))) for _ in range(2))
    assert first == second
    drawn = {tuple(ids(answer(engine, request(**hot)))) for _ in range(4)}
    assert len(drawn) == 4


def test_log_probs_and_figures(engine: EventLoopEngine, tiny_llama: Any, greedy: list[int]) -> None:
    chunks = answer(engine, request(stream=True, return_log_probs=True, return_perf_metrics=True))
    found = [value for chunk in chunks for value in chunk.log_probs]
    with torch.no_grad():
        scores = tiny_llama(torch.tensor([[*PROMPT, *greedy]])).logits[0].log_softmax(-1)
    positions = range(len(PROMPT) - 1, len(PROMPT) + 11)
    expected = [scores[i, t].item() for i, t in zip(positions, greedy, strict=True)]
    assert found == pytest.approx(expected, abs=5e-3)
    perf = chunks[-1].perf
    assert perf is not None
    assert 0 < perf["arrival_time_ns"] <= perf["first_scheduled_time_ns"]
    assert perf["first_scheduled_time_ns"] <= perf["first_token_time_ns"]
    assert perf["first_token_time_ns"] <= perf["last_token_time_ns"]
    assert all(chunk.perf is None for chunk in chunks[:-1])


@pytest.mark.parametrize("name", [each.name for each in COMMON])
def test_common_parameters_become_sampling_params(engine: EventLoopEngine, name: str) -> None:
    params = engine._params(
        request(given=frozenset({name}), **{name: 2 if name == "top_k" else 0.5})
    )
    assert getattr(params, name) == (2 if name == "top_k" else 0.5)


@pytest.mark.parametrize("guide", GUIDES)
def test_guides_become_sampling_params(engine: EventLoopEngine, guide: str) -> None:
    params = engine._params(request(guide=(guide, "x")))
    field = "guided_decoding" if hasattr(params, "guided_decoding") else "structured_outputs"
    expected: Any = True if guide == "json" else "x"
    assert getattr(getattr(params, field), GUIDES[guide]) == expected


@pytest.mark.parametrize("given", [{}, {"temperature": 0.0, "top_p": 0.5}, {"top_k": 1, "seed": 3}])
def test_greedy_requests_do_not_sample(engine: EventLoopEngine, given: dict[str, Any]) -> None:
    params = engine._params(request(given=frozenset(given), **given))
    sampling = (params.temperature, params.top_p, params.top_k)
    assert sampling in ((None, None, None), (0.0, 1.0, 0)), "the libraries' greedy values"


def test_cancel(engine: EventLoopEngine) -> None:
    r = request(max_tokens=250, stream=True)
    chunks = begin(engine, r)
    assert not chunks.get(timeout=60).last
    engine.cancel(r.key)
    assert rest(chunks)[-1].finish_reason is FinishReason.CANCELLED
    engine.cancel(r.key)
    assert ids(answer(engine, request())), "the engine serves other requests"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ARGS": '{"tensor_paralel_size": 2}'}, "did you mean 'tensor_parallel_size'?"),
        ({"ARGS": "{'a': 1}"}, "_args is not JSON"),
        ({"ARGS": "[1]"}, "write an object"),
        ({"ARGS": '{"model": "x"}'}, "_args contains 'model', which is set by model_dir"),
        ({"ARGS": '{"LENGTH": 9}'}, "make them equal"),
        ({"loras": "fr"}, "write name=folder"),
        ({"loras": "fr=/tmp,fr=/tmp"}, "each name once"),
        ({"loras": "fr=/nowhere"}, "there is no folder /nowhere"),
        ({"dtyp": "x"}, "unknown parameter 'dtyp'"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    kind: str, tiny_llama_dir: Path, settings: dict[str, str], message: str
) -> None:
    declared: Any = ENGINES[kind].settings_class
    replaced = {
        name.replace("ARGS", declared.arguments_name): value.replace("LENGTH", declared.length_name)
        for name, value in settings.items()
    }
    with pytest.raises(SettingsError) as error:
        ENGINES[kind].check({"model_dir": str(tiny_llama_dir), "max_seq_len": "64", **replaced})
    assert message in str(error.value)
    assert "\n" not in str(error.value)
