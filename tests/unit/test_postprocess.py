"""Engine steps -> text, without Triton."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from trt_tokenizers.postprocess import EngineStep, Postprocessor
from trt_tokenizers.streams import ContextStore, FinishReason, StreamContext


@pytest.fixture
def contexts(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "streams")


def make(folder: Path, contexts: ContextStore, **parameters: str) -> Postprocessor:
    parameters = {"tokenizer_dir": str(folder), **parameters}
    return Postprocessor.from_parameters(parameters, "model 'postprocessing'", contexts)


def run(
    post: Postprocessor, key: int | None, ids: list[int], size: int = 1
) -> tuple[str, str, int]:
    """Feed *ids* in chunks; the joined text, the last finish reason and token count."""
    text = ""
    step = None
    for at in range(0, len(ids), size):
        last = at + size >= len(ids)
        reason = FinishReason.LENGTH if last else FinishReason.NOT_FINISHED
        step = post.process(EngineStep(key, ids[at : at + size], reason))
        text += step.text
    assert step is not None
    return text, step.finish_reason, step.num_output_tokens


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
    key = contexts.put(StreamContext(num_input_tokens=3, end_ids=(2,), **context))
    ids = post.tokenizer.encode("héllo 世界 👍🏽")
    assert run(post, key, ids, size)[:2] == expected


def test_eos_in_the_middle_of_a_chunk_ends_the_text(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    key = contexts.put(StreamContext(num_input_tokens=1, end_ids=(2, 0)))
    ids = post.tokenizer.encode("hi")
    step = post.process(EngineStep(key, [*ids, 0, *ids]))
    assert (step.text, step.finish_reason, step.num_output_tokens) == ("hi", "stop", len(ids))
    step = post.process(EngineStep(key, ids, FinishReason.LENGTH))
    assert (step.text, step.finish_reason) == ("", "stop")


def test_a_cut_character_comes_out_at_the_end(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    key = contexts.put(StreamContext(num_input_tokens=1))
    ids = post.tokenizer.encode("a\N{OLD PERSIAN SIGN A}")[:-1]
    assert run(post, key, ids)[0] == "a\N{REPLACEMENT CHARACTER}"


def test_special_tokens_kept_are_kept_whole(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    ids = [*post.tokenizer.encode("a"), 1, *post.tokenizer.encode("b")]
    kept = contexts.put(StreamContext(num_input_tokens=1, skip_special_tokens=False))
    assert run(post, kept, ids)[0] == "a<|im_start|>b"
    skipped = contexts.put(StreamContext(num_input_tokens=1))
    assert run(post, skipped, ids)[0] == "ab"


def test_many_streams_at_once_do_not_mix(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts)
    texts = {contexts.put(StreamContext(1)): f"stream {n} 世界 {n * n}" for n in range(50)}
    ids = {key: post.tokenizer.encode(text) for key, text in texts.items()}
    got = dict.fromkeys(texts, "")
    for at in range(max(map(len, ids.values()))):
        for key, row in ids.items():
            if at < len(row):
                last = at == len(row) - 1
                step = post.process(EngineStep(key, [row[at]], FinishReason(2 if last else 0)))
                got[key] += step.text
    assert got == texts
    assert post._streams == {}


def test_number_and_age_of_streams_are_bounded(bpe_dir: Path, contexts: ContextStore) -> None:
    post = make(bpe_dir, contexts, max_streams="3", max_stream_age_s="0.2")
    for key in range(10):
        post.process(EngineStep(key, [50]))
    assert list(post._streams) == [7, 8, 9]
    time.sleep(0.25)
    post.process(EngineStep(11, [50]))
    assert list(post._streams) == [11]


def test_without_a_key_no_space_is_lost(
    sentencepiece_dir: Path, contexts: ContextStore, caplog: pytest.LogCaptureFixture
) -> None:
    post = make(sentencepiece_dir, contexts, tokenizer_type="llama")
    text = "The capital of France is Paris."
    ids = post.tokenizer.encode(text, add_special_tokens=False)
    assert run(post, None, ids)[0] == f" {text}", "the dummy space of the beginning stays as well"
    assert sum("carry no stream key" in r.message for r in caplog.records) == 1


def test_contexts_are_private_swept_and_gone(tmp_path: Path) -> None:
    folder = tmp_path / "streams"
    contexts = ContextStore(folder, max_age_s=0.2)
    key = contexts.put(StreamContext(1, stop_strings=("é",), end_ids=(1, 2)))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / str(key)).stat().st_mode & 0o777 == 0o600
    assert contexts.take(key) == StreamContext(1, stop_strings=("é",), end_ids=(1, 2))
    contexts.put(StreamContext(1))
    contexts.sweep()
    assert len(list(folder.iterdir())) == 1
    time.sleep(0.25)
    contexts.sweep()
    assert list(folder.iterdir()) == []
    contexts.discard(key)
    contexts.close()
    assert not folder.exists()
    assert json.dumps(contexts.put(StreamContext(1))), "the folder comes back when it is needed"
