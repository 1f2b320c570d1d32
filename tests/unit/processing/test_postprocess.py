"""Engine steps -> text, without Triton."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trt_tokenizers.processing.engine_steps import EngineStep
from trt_tokenizers.processing.postprocess import PostprocessingSettings, Postprocessor
from trt_tokenizers.processing.text_sequence import TextStep
from trt_tokenizers.settings import parse
from trt_tokenizers.streams.context_store import ContextStore, RequestContext
from trt_tokenizers.streams.stream_key import ASK_S, FinishReason, key_of_request_id


@pytest.fixture
def contexts(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "streams")


class Counts:
    """Replaces `Metrics`: it keeps the counts for the test to read."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = defaultdict(float)

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        self.counts[name] += value

    def observe(self, name: str, seconds: float) -> None: ...

    def gauge(self, name: str, read: Callable[[], float]) -> None: ...


def make(
    folder: Path, contexts: ContextStore, metrics: Any = None, **parameters: str
) -> Postprocessor:
    raw = {"tokenizer_dir": str(folder), **parameters}
    settings = parse(PostprocessingSettings, raw, "model 'postprocessing'")
    return Postprocessor(settings, contexts, metrics)


def one(
    post: Postprocessor,
    key: int | None,
    ids: list[int],
    finish_reason: FinishReason = FinishReason.NOT_FINISHED,
    **more: Any,
) -> TextStep:
    (step,) = post.process(EngineStep(key, [ids], finish_reason, **more))
    return step


def run(
    post: Postprocessor, key: int | None, ids: list[int], size: int = 1
) -> tuple[str, str, int]:
    """Feed *ids* in chunks; the joined text, the last finish reason and token count."""
    text = ""
    step = None
    for at in range(0, len(ids), size):
        last = at + size >= len(ids)
        reason = FinishReason.LENGTH if last else FinishReason.NOT_FINISHED
        step = one(post, key, ids[at : at + size], reason)
        text += step.text
    assert step is not None
    return text, step.finish_reason.text, step.num_output_tokens


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({}, ("héllo 世界 👍🏽", "length")),
        ({"stop_strings": ("世",)}, ("héllo ", "stop")),
        ({"stop_strings": ("世",), "include_stop": True}, ("héllo 世", "stop")),
        ({"stop_strings": ("lo 世界x",)}, ("héllo 世界 👍🏽", "length")),
        ({"echo": ">>"}, (">>héllo 世界 👍🏽", "length")),
    ],
)
def test_context_shapes_the_text(
    bpe_dir: Path,
    contexts: ContextStore,
    context: dict[str, object],
    expected: tuple[str, str],
    size: int,
) -> None:
    post = make(bpe_dir, contexts)
    key = contexts.put(RequestContext(num_input_tokens=3, end_ids=(2,), **context))
    ids = post.tokenizer.encode("héllo 世界 👍🏽")
    assert run(post, key, ids, size)[:2] == expected


def test_eos_in_the_middle_of_a_chunk_ends_the_text(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    key = contexts.put(RequestContext(num_input_tokens=1, end_ids=(2, 0)))
    ids = post.tokenizer.encode("hi")
    step = one(post, key, [*ids, 0, *ids])
    assert (step.text, step.finish_reason.text, step.num_output_tokens) == ("hi", "stop", len(ids))
    step = one(post, key, ids, FinishReason.LENGTH)
    assert (step.text, step.finish_reason.text) == ("", "stop")


def test_a_cut_character_comes_out_at_the_end(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    key = contexts.put(RequestContext(num_input_tokens=1))
    ids = post.tokenizer.encode("a\N{OLD PERSIAN SIGN A}")[:-1]
    assert run(post, key, ids)[0] == "a\N{REPLACEMENT CHARACTER}"


def test_special_tokens_kept_are_kept_whole(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    ids = [*post.tokenizer.encode("a"), 1, *post.tokenizer.encode("b")]
    kept = contexts.put(RequestContext(num_input_tokens=1, skip_special_tokens=False))
    assert run(post, kept, ids)[0] == "a<|im_start|>b"
    skipped = contexts.put(RequestContext(num_input_tokens=1))
    assert run(post, skipped, ids)[0] == "ab"


def test_many_streams_at_once_do_not_mix(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    texts = {contexts.put(RequestContext(1)): f"stream {n} 世界 {n * n}" for n in range(50)}
    ids = {key: post.tokenizer.encode(text) for key, text in texts.items()}
    got = dict.fromkeys(texts, "")
    for at in range(max(map(len, ids.values()))):
        for key, row in ids.items():
            if at < len(row):
                last = at == len(row) - 1
                step = one(post, key, [row[at]], FinishReason(2 if last else 0))
                got[key] += step.text
    assert got == texts
    assert post.alive == 0


def test_number_and_age_of_streams_are_bounded(bpe_dir: Path, contexts: ContextStore) -> None:
    metrics = Counts()
    post = make(bpe_dir, contexts, metrics, max_streams="3", max_stream_age_s="0.2")
    for key in range(10):
        one(post, key, [50])
    assert (post.alive, metrics.counts["streams_shed_total"]) == (3, 7)
    time.sleep(0.25)
    one(post, 11, [50])
    assert post.alive == 1
    assert metrics.counts["streams_shed_total"] == 7, "an expired stream is not counted as shed"


def test_without_a_key_no_space_is_lost(
    sentencepiece_dir: Path, contexts: ContextStore, caplog: pytest.LogCaptureFixture
) -> None:
    post = make(sentencepiece_dir, contexts, tokenizer_type="llama")
    text = "The capital of France is Paris."
    ids = post.tokenizer.encode(text, add_special_tokens=False)
    assert run(post, None, ids)[0] == f" {text}", "the dummy space at the beginning stays as well"
    assert sum("carry no stream key" in r.message for r in caplog.records) == 1


LONG = "héllo 世界 — that is all, folks"


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("context", "ids_after", "expected"),
    [
        ({"end_ids": (2,)}, [2], "stop"),
        ({"max_tokens": 1000}, [], ""),
        ({"max_tokens": 0, "stream": False}, [], "stop"),
        ({"stop_ids": ((5, 6), (1, 2))}, [1, 2], "stop"),
    ],
)
def test_the_end_is_inferred_if_the_engine_does_not_mark_it(
    bpe_dir: Path,
    contexts: ContextStore,
    context: dict[str, Any],
    ids_after: list[int],
    expected: str,
    size: int,
) -> None:
    post = make(bpe_dir, contexts)
    # The text ends with the beginning of a stop string; that must come out as well.
    key = contexts.put(RequestContext(1, stop_strings=("folks!",), **context))
    ids = [*post.tokenizer.encode(LONG), *ids_after]
    if context.get("stream") is False:
        size = len(ids)
    text, step = "", None
    for at in range(0, len(ids), size):
        step = one(post, key, ids[at : at + size])
        text += step.text
    assert step is not None
    assert step.finish_reason.text == expected
    held = "folks" if not expected else ""
    assert text + held == LONG
    assert post.alive == (0 if expected else 1)


def test_max_tokens_ends_and_releases(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    ids = post.tokenizer.encode(LONG)
    key = contexts.put(RequestContext(1, stop_strings=("folks!",), max_tokens=len(ids)))
    text = "".join(one(post, key, [i]).text for i in ids)
    assert text == LONG
    assert post.alive == 0


def test_no_text_comes_after_a_stop_string(bpe_dir: Path, contexts: ContextStore) -> None:
    """The engine has not stopped yet: its next tokens must not begin a new stream."""
    post = make(bpe_dir, contexts)
    key = contexts.put(RequestContext(1, stop_strings=("is",)))
    steps = [one(post, key, [i]) for i in post.tokenizer.encode(LONG)]
    assert "".join(s.text for s in steps) == "héllo 世界 — that "
    assert [s.stop_engine for s in steps].count(True) == 1
    assert {s.finish_reason for s in steps[-3:]} == {FinishReason.STOP}
    assert post.alive == 0
    assert one(post, key, [], FinishReason.CANCELLED).finish_reason is FinishReason.STOP
    assert post._ended == {}


def test_the_token_that_completes_a_stop_string_counts_for_any_chunk_size(
    bpe_dir: Path, contexts: ContextStore
) -> None:
    post = make(bpe_dir, contexts)
    ids = post.tokenizer.encode(LONG)
    log_probs = [-float(n) for n in range(len(ids))]
    counts = set()
    for size in (1, 2, 5, 100):
        key = contexts.put(RequestContext(1, stop_strings=("is all",)))
        got: list[float] = []
        for at in range(0, len(ids), size):
            step = one(post, key, ids[at : at + size], log_probs=log_probs[at : at + size])
            got += step.log_probs
            if step.finish_reason:
                break
        counts.add(step.num_output_tokens)
        assert got == log_probs[: step.num_output_tokens]
        assert step.cum_log_prob == sum(got)
    assert len(counts) == 1


def test_stop_strings_do_not_match_before_min_tokens(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    ids = post.tokenizer.encode("a. b. c. d.")
    cut = {}
    for least in (1, len(ids)):
        key = contexts.put(RequestContext(1, stop_strings=(".",), min_tokens=least))
        cut[least] = run(post, key, ids)[0]
    assert cut == {1: "a", len(ids): "a. b. c. d"}


def test_rows_and_sequences_of_one_key_do_not_mix(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    key = contexts.put(RequestContext(1, echo="r0 "), RequestContext(1, echo="r1 "))
    texts = {(row, seq): f"row {row} sequence {seq} 世界" for row in (0, 1) for seq in (0, 1)}
    ids = {place: post.tokenizer.encode(text) for place, text in texts.items()}
    got = dict.fromkeys(texts, "")
    for at in range(max(map(len, ids.values()))):
        for (row, seq), its in ids.items():
            if at < len(its):
                last = FinishReason(2 if at == len(its) - 1 else 0)
                got[row, seq] += one(post, key, [its[at]], last, row=row, sequence=seq).text
    assert got == {place: f"r{place[0]} {text}" for place, text in texts.items()}
    assert post.alive == 0


def test_beams_send_their_common_text_at_once_and_the_rest_at_the_end(
    bpe_dir: Path, contexts: ContextStore
) -> None:
    """The best beam changes while they run; sent text is never taken back."""
    post = make(bpe_dir, contexts)
    encode = post.tokenizer.encode
    key = contexts.put(RequestContext(1, end_ids=(2,), max_tokens=50))
    growing = [
        [encode("The cat"), encode("The dog")],
        [encode("The dog sat"), encode("The dog ran")],
        [[*encode("The dog ran off"), 2], [*encode("The dog sat"), 2]],
    ]
    texts = ["", ""]
    certain = []
    for beams in growing:
        steps = post.process(EngineStep(key, beams))
        texts = [text + step.text for text, step in zip(texts, steps, strict=True)]
        certain.append(texts[0])
    assert certain[0].startswith("The ") or certain[0] == "The"
    assert texts == ["The dog ran off", "The dog sat"]
    assert post.alive == 0


def test_a_stream_ends_if_its_client_is_gone(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    asked = []

    def gone() -> bool:
        asked.append(True)
        return True

    (first,) = post.process(EngineStep(3, [[50]]), gone)
    assert not first.stop_engine
    assert asked == [], "each question to Triton takes time, so it asks every ASK_S"
    time.sleep(1.2 * ASK_S)
    (second,) = post.process(EngineStep(3, [[50]]), gone)
    assert second.stop_engine
    assert post.alive == 0
    assert one(post, 3, [50]).text == ""
    assert one(post, 3, [], FinishReason.CANCELLED).finish_reason is FinishReason.CANCELLED
    assert post._ended == {}


def test_a_continued_text_keeps_its_first_space(
    sentencepiece_dir: Path, contexts: ContextStore
) -> None:
    """SentencePiece drops the first space of a text. An answer that continues the prompt's text
    needs that space; an answer to messages does not."""
    post = make(sentencepiece_dir, contexts, tokenizer_type="llama")
    ids = post.tokenizer.encode("is Paris.", add_special_tokens=False)
    for continues, expected in ((True, " is Paris."), (False, "is Paris.")):
        key = contexts.put(RequestContext(1, continues=continues))
        assert run(post, key, ids)[0] == expected


def test_a_request_id_may_be_used_again(
    bpe_dir: Path, contexts: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an inferred end, after a stop string, and some time after no sign of an end."""
    monkeypatch.setattr("trt_tokenizers.streams.context_store._SILENT_S", 0.1)
    settings = PostprocessingSettings(str(bpe_dir))
    post = Postprocessor(settings, contexts, reusable_keys=True)
    key = key_of_request_id("mine")
    for number, (more, ids_after) in enumerate(
        [({}, [2]), ({}, []), ({"stop_strings": ("all",)}, []), ({}, [2]), ({}, [2])]
    ):
        whole = f"request {number}: {LONG}"
        contexts.put_under("mine", [RequestContext(number, end_ids=(2,), **more)])
        ids = [*post.tokenizer.encode(whole), *ids_after]
        steps = [one(post, key, [i]) for i in ids]
        expected = whole.split("all", maxsplit=1)[0] if more else whole
        assert "".join(step.text for step in steps) == expected
        assert steps[0].num_input_tokens == number
        if not (more or ids_after):
            time.sleep(1.2 * ASK_S)


def test_the_engine_is_asked_to_stop_until_it_does(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    key = contexts.put(RequestContext(1, stop_strings=("a",)))
    ids = post.tokenizer.encode("a")
    assert one(post, key, ids).stop_engine
    assert not one(post, key, ids).stop_engine
    time.sleep(1.2 * ASK_S)
    assert one(post, key, ids).stop_engine
    assert not one(post, key, [], FinishReason.CANCELLED).stop_engine


def test_any_sequence_of_a_row_may_come_first(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    key = contexts.put(RequestContext(1, stop_strings=(" —",)))
    ids = post.tokenizer.encode(LONG)
    for sequence in (1, 0):
        (step,) = post.process(EngineStep(key, [ids], FinishReason.LENGTH, sequence=sequence))
        assert step.text == "héllo 世界"


@pytest.mark.parametrize("size", [1, 100])
def test_a_stop_word_that_is_a_special_token_ends_the_text(
    bpe_dir: Path, contexts: ContextStore, size: int
) -> None:
    post = make(bpe_dir, contexts)
    key = contexts.put(RequestContext(1, stop_strings=("<|im_start|>",), stop_ids=((1,),)))
    ids = [*post.tokenizer.encode("hi there"), 1, *post.tokenizer.encode("no more")]
    assert run(post, key, ids, size)[:2] == ("hi there", "stop")
