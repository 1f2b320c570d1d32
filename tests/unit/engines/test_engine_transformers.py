"""The engine transformers, compared with ``model.generate`` on a tiny Llama of random weights."""

from __future__ import annotations

import gc
import itertools
import queue
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from applicable import needs_engine

needs_engine()

import torch  # noqa: E402
import transformers  # noqa: E402

from trt_tokenizers.engines.base import (  # noqa: E402
    Chunk,
    FinishReason,
    GenerationRequest,
    validate,
)
from trt_tokenizers.engines.transformers import settings  # noqa: E402
from trt_tokenizers.engines.transformers.engine import TransformersEngine  # noqa: E402
from trt_tokenizers.engines.transformers.sampling import (  # noqa: E402
    Job,
    Nucleus,
    Row,
    RowProcessor,
)
from trt_tokenizers.engines.transformers.scheduler import Scheduler  # noqa: E402
from trt_tokenizers.errors import EngineError, RequestError, SettingsError  # noqa: E402

VOCAB = 256
SECONDS = 20  # timeout of waits that normally take milliseconds
SAMPLED = frozenset({"temperature", "top_k", "top_p"})
KEYS = itertools.count(1)

rng = random.Random(0)
SYSTEM = [rng.randrange(VOCAB) for _ in range(80)]  # a shared prefix, like a system prompt
PROMPTS = [
    [3],
    [5, 6, 7],
    [rng.randrange(VOCAB) for _ in range(17)],
    [*SYSTEM, 9, 10],
    [*SYSTEM, 200],
    [rng.randrange(VOCAB) for _ in range(130)],
]


@pytest.fixture(scope="session")
def model() -> Any:
    # manager.stop() runs gc.collect(), which takes 0.4 s with the objects of two libraries.
    gc.freeze()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,  # separates the scores, so the greedy choice is clear
    )
    return transformers.LlamaForCausalLM(config).float().eval()


@pytest.fixture(scope="session")
def model_dir(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-llama")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[TransformersEngine]:
    engine = TransformersEngine({"model_dir": str(model_dir), "device": "cpu"})
    yield engine
    engine.stop()


@pytest.fixture
def make_engine(model_dir: Path) -> Iterator[Any]:
    engines: list[TransformersEngine] = []

    def make(**settings: object) -> TransformersEngine:
        texts = {name: str(value) for name, value in settings.items()}
        engines.append(TransformersEngine({"model_dir": str(model_dir), "device": "cpu", **texts}))
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()


class Stream:
    """The chunks of one request."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.chunks: list[Chunk] = []
        self._queue: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        self.emit = self._queue.put

    def next(self) -> Chunk:
        self.chunks.append(self._queue.get(timeout=SECONDS))
        return self.chunks[-1]

    def finish(self) -> Chunk:
        """Wait for the last chunk and merge all of them; none may follow the last."""
        while not (self.chunks and self.chunks[-1].last):
            self.next()
        assert self._queue.empty()
        last = self.chunks[-1]
        return Chunk(
            token_ids=tuple(i for c in self.chunks for i in c.token_ids),
            log_probs=tuple(p for c in self.chunks for p in c.log_probs),
            finish_reason=last.finish_reason,
            error=last.error,
        )


def start(
    engine: TransformersEngine, prompt: Sequence[int], max_tokens: int, **more: Any
) -> Stream:
    request = GenerationRequest(
        key=next(KEYS), prompt_ids=tuple(prompt), max_tokens=max_tokens, **more
    )
    validate(request, engine)
    stream = Stream(request)
    engine.submit(request, stream.emit)
    return stream


def generate(model: Any, prompt: Sequence[int], max_tokens: int, **more: Any) -> list[int]:
    """The expected ids, by ``model.generate``."""
    given = torch.tensor([list(prompt)])
    more = {"eos_token_id": None, "pad_token_id": 0, "do_sample": False, **more}
    found = model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=max_tokens, **more
    )
    return found[0, len(prompt) :].tolist()


def test_greedy_equals_generate(engine: TransformersEngine, model: Any) -> None:
    streams = [start(engine, p, 40, stream=bool(i % 2)) for i, p in enumerate(PROMPTS)]
    for stream, prompt in zip(streams, PROMPTS, strict=True):
        whole = stream.finish()
        assert list(whole.token_ids) == generate(model, prompt, 40)
        assert whole.finish_reason is FinishReason.LENGTH
        assert len(stream.chunks) == (40 if stream.request.stream else 1)


ENDS = frozenset({20, 90, 150, 221})


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"end_ids": ENDS}, {"eos_token_id": sorted(ENDS)}),
        (
            {"end_ids": ENDS, "min_tokens": 25},
            {"eos_token_id": sorted(ENDS), "min_new_tokens": 25},
        ),
        (
            {"bad_words": tuple((i,) for i in range(100))},
            {"bad_words_ids": [[i] for i in range(100)]},
        ),
    ],
    ids=["repetition", "ends", "min_tokens", "bad_words"],
)
def test_processing_equals_generate(
    engine: TransformersEngine, model: Any, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    streams = [start(engine, p, 40, stream=True, **ours) for p in PROMPTS]
    plain = start(engine, PROMPTS[0], 40)
    for stream, prompt in zip(streams, PROMPTS, strict=True):
        whole = stream.finish()
        expected = generate(model, prompt, 40, **theirs)
        assert list(whole.token_ids) == expected
        ended = "end_ids" in ours and expected[-1] in ENDS
        assert whole.finish_reason is (FinishReason.STOP if ended else FinishReason.LENGTH)
    assert list(plain.finish().token_ids) == generate(model, PROMPTS[0], 40)


def test_a_bad_word_of_several_ids(engine: TransformersEngine, model: Any) -> None:
    free = generate(model, PROMPTS[1], 30)
    word = free[10:13]
    found = start(engine, PROMPTS[1], 30, bad_words=(tuple(word),)).finish().token_ids
    assert list(found) == generate(model, PROMPTS[1], 30, bad_words_ids=[word])
    assert list(found) != free


def test_embedding_bias(engine: TransformersEngine, model: Any) -> None:
    """The bias acts like sequence_bias for single tokens; it may be shorter than the vocabulary."""
    bias = np.zeros(200, dtype=np.float32)
    bias[[187, 9]] = -50, 1.5
    found = start(engine, PROMPTS[1], 30, embedding_bias=bias).finish().token_ids
    sequence_bias = [[[187], -50.0], [[9], 1.5]]
    assert list(found) == generate(model, PROMPTS[1], 30, sequence_bias=sequence_bias)
    assert list(found) != generate(model, PROMPTS[1], 30)


def test_presence_and_frequency_penalty(engine: TransformersEngine, model: Any) -> None:
    presence, frequency = 1.5, 0.7
    ids = list(PROMPTS[2])
    for _ in range(30):
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, -1]
        for token, count in Counter(ids[len(PROMPTS[2]) :]).items():
            scores[token] -= presence + frequency * count
        ids.append(int(scores.argmax()))
    stream = start(engine, PROMPTS[2], 30, presence_penalty=presence, frequency_penalty=frequency)
    assert list(stream.finish().token_ids) == ids[len(PROMPTS[2]) :]
    assert ids[len(PROMPTS[2]) :] != generate(model, PROMPTS[2], 30)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_log_probs(engine: TransformersEngine, model: Any, penalty: float) -> None:
    others = [start(engine, p, 30) for p in PROMPTS]
    requested = start(
        engine, PROMPTS[2], 30, stream=True, return_log_probs=True, repetition_penalty=penalty
    )
    given = torch.tensor([PROMPTS[2]])
    oracle = model.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=30,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        repetition_penalty=penalty,
        output_scores=True,
        return_dict_in_generate=True,
    )
    expected = model.compute_transition_scores(
        oracle.sequences, oracle.scores, normalize_logits=True
    )[0]
    whole = requested.finish()
    assert list(whole.token_ids) == oracle.sequences[0, len(PROMPTS[2]) :].tolist()
    torch.testing.assert_close(torch.tensor(whole.log_probs), expected, atol=1e-4, rtol=1e-4)
    assert all(len(c.log_probs) == len(c.token_ids) for c in requested.chunks)
    assert all(other.finish().log_probs == () for other in others)


def test_log_probs_of_sampled_tokens_exclude_the_noise(engine: TransformersEngine) -> None:
    two = {"given": SAMPLED, "top_k": 2, "return_log_probs": True}
    probs = {}
    for seed in range(30):
        whole = start(engine, PROMPTS[1], 1, seed=seed, **two).finish()
        probs[whole.token_ids[0]] = torch.tensor(whole.log_probs).exp().item()
    assert len(probs) == 2
    assert sum(probs.values()) == pytest.approx(1, abs=1e-4)


def test_a_seed_gives_the_same_ids_in_any_batch(engine: TransformersEngine) -> None:
    hot = {"given": SAMPLED, "temperature": 1.5, "top_p": 0.95, "top_k": 100}
    alone = start(engine, PROMPTS[2], 40, seed=7, **hot).finish().token_ids
    others = [start(engine, p, 40, seed=i, **hot) for i, p in enumerate(PROMPTS + PROMPTS[:2])]
    among = start(engine, PROMPTS[2], 40, seed=7, **hot)
    assert among.finish().token_ids == alone
    found = {other.finish().token_ids for other in others}
    assert len(found) == len(others)
    assert alone not in found


@pytest.mark.parametrize("seeds", [(1, 2), (1, 2**32 + 1), (None, None)])
def test_other_seeds_give_other_ids(
    engine: TransformersEngine, seeds: tuple[int | None, int | None]
) -> None:
    streams = [start(engine, PROMPTS[2], 40, given=SAMPLED, seed=seed) for seed in seeds]
    assert streams[0].finish().token_ids != streams[1].finish().token_ids


@pytest.mark.parametrize(
    "narrow",
    [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 0.0}, {"temperature": 1e-30}],
    ids=str,
)
def test_narrow_sampling_is_greedy(
    engine: TransformersEngine, model: Any, narrow: dict[str, float]
) -> None:
    streams = [start(engine, p, 30, given=SAMPLED, seed=1, **narrow) for p in PROMPTS]
    for stream, prompt in zip(streams, PROMPTS, strict=True):
        assert list(stream.finish().token_ids) == generate(model, prompt, 30)


def test_draws_follow_the_distribution(model: Any) -> None:
    with torch.no_grad():
        scores = model(torch.tensor([PROMPTS[1]])).logits[:, -1]
    request = {"key": 1, "prompt_ids": tuple(PROMPTS[1]), "max_tokens": 1, "given": SAMPLED}
    drawn: Counter[int] = Counter()
    for seed in range(4000):
        job = Job(
            GenerationRequest(seed=seed, temperature=0.8, top_k=4, **request), torch.device("cpu")
        )
        drawn[int(job.process(scores).argmax())] += 1
    top, ids = (scores[0] / 0.8).topk(4)
    for token, prob in zip(ids.tolist(), top.softmax(0).tolist(), strict=True):
        assert drawn[token] / 4000 == pytest.approx(prob, abs=5 * (prob / 4000) ** 0.5)
    assert drawn.total() == sum(drawn[token] for token in ids.tolist())


def test_every_step_samples_independently() -> None:
    scores = torch.zeros(1, 1000)

    def draws() -> list[int]:
        request = GenerationRequest(key=1, prompt_ids=(1,), max_tokens=9, seed=5, given=SAMPLED)
        job = Job(request, torch.device("cpu"))
        for _ in range(8):
            job.add(int(job.process(scores).argmax()))
        return job.generated

    assert draws() == draws()
    assert len(set(draws())) > 6


@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.99])
def test_nucleus_equals_transformers(spread: float, top_p: float) -> None:
    torch.manual_seed(1)
    scores = torch.randn(1, 5000) * spread
    expected = transformers.TopPLogitsWarper(top_p)(None, scores)
    assert torch.equal(Nucleus(top_p)(None, scores), expected)


@pytest.mark.parametrize(
    "sampling",
    [
        {"min_p": 0.02},
        {"min_p": 0.3, "temperature": 1.7},
        {"min_p": 0.05, "temperature": 0.7, "top_k": 40, "top_p": 0.9},
    ],
    ids=str,
)
def test_min_p_has_the_distribution_of_generate(model: Any, sampling: dict[str, Any]) -> None:
    prompt = torch.tensor([PROMPTS[1]])
    generated = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=1, pad_token_id=0,
        do_sample=True, output_scores=True, return_dict_in_generate=True,
        **{"temperature": 1.0, "top_k": 0, "top_p": 1.0, **sampling},
    )  # fmt: skip
    expected = generated.scores[0][0].log_softmax(0)
    with torch.no_grad():
        scores = model(prompt).logits[:, -1]

    def log_prob(token: int) -> float:
        request = GenerationRequest(
            key=1, prompt_ids=tuple(PROMPTS[1]), max_tokens=1, return_log_probs=True,
            given=frozenset(sampling), **sampling,
        )  # fmt: skip
        job = Job(request, torch.device("cpu"))
        job.process(scores)
        job.add(token)
        return job.new_chunk().log_probs[0]

    assert 1 < expected.isfinite().sum() < VOCAB
    assert [log_prob(i) for i in range(VOCAB)] == pytest.approx(expected.tolist(), abs=1e-5)


def test_only_requests_with_processing_are_not_plain() -> None:
    def job(**more: Any) -> Job:
        request = GenerationRequest(key=1, prompt_ids=(1,), max_tokens=9, **more)
        return Job(request, torch.device("cpu"))

    ended = {"end_ids": frozenset({2}), "stop_words": ((3, 4),), "min_tokens": 0}
    plain = [job(), job(**ended), job(given=SAMPLED, top_k=1)]
    busy = job(repetition_penalty=1.1)
    assert [j.plain for j in [*plain, busy]] == [True, True, True, False]
    early = job(end_ids=frozenset({0}), min_tokens=2)
    scores = torch.tensor([[5.0, 1.0]])
    for _ in range(2):
        assert not early.plain
        assert early.process(scores).argmax() == 1
        early.add(1)
    assert early.plain
    assert early.process(scores).argmax() == 0


def test_stop_words(engine: TransformersEngine, model: Any) -> None:
    free = generate(model, PROMPTS[2], 40)
    word = tuple(free[11:14])
    end = next(i for i in range(3, 41) if tuple(free[i - 3 : i]) == word)
    for stream in (True, False):
        got = start(
            engine, PROMPTS[2], 40, stream=stream, stop_words=((*word[:2], 255, 3), word, (7,) * 3)
        )
        whole = got.finish()
        assert list(whole.token_ids) == free[:end]
        assert whole.finish_reason is FinishReason.STOP


def test_no_stop_word_before_min_tokens(engine: TransformersEngine, model: Any) -> None:
    free = generate(model, PROMPTS[2], 40)
    words = tuple(set(pairwise(free)))
    for least in (0, 1, 13, 40):
        whole = start(engine, PROMPTS[2], 40, stop_words=words, min_tokens=least).finish()
        assert list(whole.token_ids) == free[: max(least, 2)]
        assert whole.finish_reason is FinishReason.STOP


def test_no_stop_word_of_one_token_before_min_tokens(
    engine: TransformersEngine, model: Any
) -> None:
    """Further end ids of a model arrive as stop words, so both are suppressed alike."""
    free = generate(model, PROMPTS[2], 40)
    end = {"end_ids": frozenset(free[:1]), "min_tokens": 5}
    word = {"stop_words": ((free[0],),), "min_tokens": 5}
    first, second = (start(engine, PROMPTS[2], 40, **m).finish() for m in (end, word))
    assert first == second
    assert free[0] not in first.token_ids[:5]


def test_no_forward_pass_follows_a_stop_word(make_engine: Any) -> None:
    engine = make_engine()
    forward, rows = engine._manager.model.forward, []

    def counting(*args: Any, **kwargs: Any) -> Any:
        rows.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    engine._manager.model.forward = counting
    first = start(engine, PROMPTS[2], 400, stop_words=tuple((i,) for i in range(VOCAB)))
    assert len(first.finish().token_ids) == 1
    start(engine, PROMPTS[1], 5).finish()
    assert rows == [len(PROMPTS[2]), len(PROMPTS[1]), 1, 1, 1, 1]


def test_long_prompts_are_split_over_several_passes(
    make_engine: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings._MAX_BATCH_TOKENS, "cpu", 48)
    engine = make_engine()
    more = {"repetition_penalty": 1.3, "return_log_probs": True}
    streams = [start(engine, p, 20, **more) for p in PROMPTS]
    for stream, prompt in zip(streams, PROMPTS, strict=True):
        expected = generate(model, prompt, 20, repetition_penalty=1.3)
        assert list(stream.finish().token_ids) == expected


def test_more_requests_than_the_batch_size(make_engine: Any, model: Any) -> None:
    engine = make_engine(max_batch_size=8)
    prompts = [[i % 7, *range(i)] for i in range(1, 65)]
    streams = [start(engine, p, 8, stream=bool(i % 3)) for i, p in enumerate(prompts)]
    for stream, prompt in zip(streams, prompts, strict=True):
        assert list(stream.finish().token_ids) == generate(model, prompt, 8)


@pytest.fixture
def evicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the requests that were evicted from the KV cache."""
    ids: list[str] = []
    original = Row.create_equivalent_initial_request

    def spy(row: Row) -> Row:
        ids.append(row.request_id)
        return original(row)

    monkeypatch.setattr(Row, "create_equivalent_initial_request", spy)
    return ids


def test_eviction_does_not_change_the_tokens(
    make_engine: Any, model: Any, evicted: list[str]
) -> None:
    engine = make_engine(kv_cache_tokens=192)
    hot = {"given": SAMPLED, "seed": 3, "temperature": 1.5}
    alone = start(engine, PROMPTS[1], 100, **hot).finish().token_ids
    assert not evicted
    streams = [
        start(engine, p, 50, stream=bool(i % 2), repetition_penalty=1.3)
        for i, p in enumerate(PROMPTS)
    ]
    sampled = [start(engine, PROMPTS[1], 100, **hot, stream=True) for _ in range(4)]
    for stream, prompt in zip(streams, PROMPTS, strict=True):
        expected = generate(model, prompt, 50, repetition_penalty=1.3)
        assert list(stream.finish().token_ids) == expected
    assert {stream.finish().token_ids for stream in sampled} == {alone}
    assert evicted


def test_an_evicted_request_continues_after_a_cancel(
    make_engine: Any, model: Any, evicted: list[str]
) -> None:
    """The scheduler of transformers 5.23 waits forever here."""
    engine = make_engine(kv_cache_tokens=128)
    prompts = [list(range(40)), list(range(50, 90))]
    streams = [Stream(GenerationRequest(next(KEYS), tuple(p), 80, stream=True)) for p in prompts]
    for stream in streams:

        def emit(chunk: Chunk, stream: Stream = stream) -> None:
            stream.emit(chunk)
            if evicted and evicted[0] != str(stream.request.key):
                engine.cancel(stream.request.key)

        engine.submit(stream.request, emit)
    wholes = [stream.finish() for stream in streams]
    reasons = [whole.finish_reason for whole in wholes]
    assert sorted(reasons) == [FinishReason.LENGTH, FinishReason.CANCELLED]
    back = reasons.index(FinishReason.LENGTH)
    assert list(wholes[back].token_ids) == generate(model, prompts[back], 80)
    assert evicted == [str(streams[back].request.key)]


def test_too_long_for_the_cache(make_engine: Any, model: Any) -> None:
    engine = make_engine(kv_cache_tokens=64)
    assert engine.max_seq_len == 64
    neighbour = start(engine, PROMPTS[1], 61, stream=True)
    for prompt_length, max_tokens in ((64, 1), (60, 5), (1, 64)):
        too_long = GenerationRequest(
            key=next(KEYS), prompt_ids=(1,) * prompt_length, max_tokens=max_tokens
        )
        with pytest.raises(RequestError, match="the KV cache holds 64 in all"):
            engine.submit(too_long, lambda _: None)
    fits = start(engine, [1] * 60, 4)
    assert list(neighbour.finish().token_ids) == generate(model, PROMPTS[1], 61)
    assert list(fits.finish().token_ids) == generate(model, [1] * 60, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt_ids": (1, 256)}, "the prompt holds the token id 256; .* 0 to 255"),
        ({"prompt_ids": (1, -1, 2)}, "the prompt holds the token id -1"),
        ({"end_ids": frozenset({2, 999})}, "end_id holds the token id 999"),
        ({"stop_words": ((1, 2), (3, 256))}, "stop_words holds the token id 256"),
        ({"bad_words": ((1, 2), (-3,))}, "bad_words holds the token id -3"),
        ({"bad_words": ((1, 2), ())}, "bad_words holds no token ids"),
    ],
    ids=["prompt", "negative", "end", "stop", "bad", "empty"],
)
def test_ids_outside_the_vocabulary(
    engine: TransformersEngine, wrong: dict[str, Any], message: str
) -> None:
    request = GenerationRequest(**{"key": next(KEYS), "prompt_ids": (1,), "max_tokens": 2, **wrong})
    with pytest.raises(RequestError, match=message):
        engine.submit(request, lambda _: None)


def test_cancel(make_engine: Any, model: Any) -> None:
    engine = make_engine(max_batch_size=1)
    running = start(engine, PROMPTS[1], 500, stream=True)
    waiting = start(engine, PROMPTS[2], 5)
    after = start(engine, PROMPTS[2], 5)
    engine.cancel(10**12)
    running.next()
    engine.cancel(waiting.request.key)
    assert waiting.finish() == Chunk(finish_reason=FinishReason.CANCELLED)
    running.next()
    engine.cancel(running.request.key)
    engine.cancel(running.request.key)
    whole = running.finish()
    assert whole.finish_reason is FinishReason.CANCELLED
    assert list(whole.token_ids) == generate(model, PROMPTS[1], len(whole.token_ids))
    assert list(after.finish().token_ids) == generate(model, PROMPTS[2], 5)
    engine.cancel(after.request.key)


def test_a_cancellation_may_arrive_one_round_before_its_request() -> None:
    class Cache:
        def free_blocks(self, request_id: str) -> None: ...

    delivered: list[tuple[str, Chunk]] = []
    scheduler = Scheduler(Cache(), None, 8)
    scheduler.deliver = delivered.append
    row = Row(Job(GenerationRequest(key=5, prompt_ids=(1,), max_tokens=2), torch.device("cpu")))
    for before, rounds, after in ((5, 1, 1), (6, 1, 0), (5, 2, 0)):
        delivered.clear()
        scheduler.reset()
        scheduler.set_request_cancellation(str(before))
        for _ in range(rounds):
            scheduler.clear_cancelled_requests()
        scheduler.add_waiting_request(row)
        assert len(scheduler.clear_cancelled_requests()) == len(delivered) == after


def test_a_cancelled_request_without_streaming_returns_its_tokens(
    engine: TransformersEngine,
) -> None:
    clock = start(engine, PROMPTS[0], 500, stream=True)
    whole = start(engine, PROMPTS[1], 500)
    for _ in range(10):
        clock.next()
    for stream in (whole, clock):
        engine.cancel(stream.request.key)
        assert stream.finish().finish_reason is FinishReason.CANCELLED
    assert len(whole.chunks) == 1
    assert whole.chunks[0].token_ids


def test_cancel_from_emit(engine: TransformersEngine) -> None:
    """The dispatcher cancels from emit if the client has disconnected."""
    stream = Stream(GenerationRequest(next(KEYS), (1,), max_tokens=500, stream=True))

    def emit(chunk: Chunk) -> None:
        engine.cancel(stream.request.key)
        stream.emit(chunk)

    engine.submit(stream.request, emit)
    assert len(stream.finish().token_ids) == 1


def test_stop_ends_open_requests(make_engine: Any) -> None:
    before = set(threading.enumerate())
    engine = make_engine(max_batch_size=2)
    new = set(threading.enumerate()) - before
    (thread,) = (thread for thread in new if thread.name == "transformers-engine")
    streams = [start(engine, p, 300, stream=True) for p in PROMPTS]
    streams[0].next()
    engine.stop()
    for stream in streams:
        assert stream.finish().finish_reason is FinishReason.CANCELLED
    assert thread not in threading.enumerate()
    engine.cancel(streams[0].request.key)
    with pytest.raises(EngineError, match="has been stopped"):
        start(engine, [1], 1)


def test_an_error_of_the_loop_fails_all_requests(make_engine: Any) -> None:
    engine = make_engine(max_batch_size=2)
    forward, calls = engine._manager.model.forward, itertools.count()

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 3:
            raise ValueError("the first line\nand another")
        return forward(*args, **kwargs)

    engine._manager.model.forward = failing
    streams = [start(engine, p, 100, stream=bool(i % 2)) for i, p in enumerate(PROMPTS)]
    for stream in streams:
        error = stream.finish().error
        assert error == (
            "engine 'transformers' has died: ValueError: the first line; restart the server"
        )
    with pytest.raises(EngineError, match="has died: ValueError: the first line"):
        start(engine, [1], 1)


def test_a_failing_request_does_not_affect_the_others(
    engine: TransformersEngine, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Job.process

    def process(job: Job, scores: Any) -> Any:
        if job.request.repetition_penalty == 3 and len(job.generated) == 2:
            raise ValueError("this one")
        return original(job, scores)

    monkeypatch.setattr(Job, "process", process)
    good = [start(engine, p, 20, repetition_penalty=1.3) for p in PROMPTS]
    bad = start(engine, PROMPTS[0], 20, stream=True, repetition_penalty=3.0)
    whole = bad.finish()
    assert len(whole.token_ids) == 2
    assert whole.error == "choosing a token failed: ValueError: this one"
    for stream, prompt in zip(good, PROMPTS, strict=True):
        expected = generate(model, prompt, 20, repetition_penalty=1.3)
        assert list(stream.finish().token_ids) == expected


def test_a_model_that_fails_its_first_token_is_an_error_at_start(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("no such attention")

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", failing)
    with pytest.raises(EngineError, match="no such attention"):
        TransformersEngine({"model_dir": str(model_dir), "device": "cpu"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int3"}, "dtype is 'int3'; it must be one of auto, float32"),
        ({"device": "tpu"}, "device is 'tpu'; it must be one of auto, cpu, cuda"),
        ({"max_batch_size": "-1"}, "max_batch_size is -1; it must be at least 0"),
        ({"kv_cache_free_gpu_mem_fraction": "1.5"}, "is 1.5; it must be above 0 and at most 1"),
        ({"max_seq_len": "900"}, "max_seq_len is 900 .* it must be at most 512"),
        ({"model_dir": "/nowhere"}, "no config.json in model_dir '/nowhere'; give the folder"),
        ({"max_sequence": "1"}, "unknown parameter 'max_sequence'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_used(
    model_dir: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        TransformersEngine({"model_dir": str(model_dir), "device": "cpu", **settings})


def test_model_dir_must_be_given() -> None:
    with pytest.raises(SettingsError, match="'model_dir' has no value"):
        TransformersEngine({})


def test_a_folder_without_weights(tmp_path: Path, model_dir: Path) -> None:
    (tmp_path / "config.json").write_bytes((model_dir / "config.json").read_bytes())
    with pytest.raises(EngineError, match=f"the model in {tmp_path} does not load: OSError"):
        TransformersEngine({"model_dir": str(tmp_path)})


def test_only_rows_with_processing_are_processed() -> None:
    class Future:
        def __init__(self, **more: Any) -> None:
            request = GenerationRequest(key=1, prompt_ids=(1,), max_tokens=2, **more)
            self.state = Row(Job(request, torch.device("cpu")))

    processor = RowProcessor()
    futures = [Future(), Future(repetition_penalty=2.0)]
    assert processor.prepare_tensor_args(futures).numel() == 0
    assert [row for row, _ in processor._jobs] == [1]
    # Requests in prefill have a row of scores at the end, but no token.
    scores = torch.tensor([[1.0, 8.0, 2.0]] * 3)
    assert processor(scores, None).tolist() == [[1.0, 8.0, 2.0], [1.0, 4.0, 2.0], [1.0, 8.0, 2.0]]
