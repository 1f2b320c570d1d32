"""A server's way from «no new requests» to «no requests»."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_tokenizers.drain import Drain
from trt_tokenizers.errors import StoppingError
from trt_tokenizers.preprocess import PreprocessingSettings, Preprocessor, TextRequest
from trt_tokenizers.streams import ContextStore, StreamContext


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "trt-tokenizers-12-34")


def test_it_waits_until_the_last_stream_has_ended(store: ContextStore, tmp_path: Path) -> None:
    waiting, running = (store.put(StreamContext(1)) for _ in range(2))
    store.take(running)
    drain = Drain(12, 100.0, 20.0, tmp_path)
    assert not drain.done(101.0)
    store.take(waiting)
    store.release(waiting)
    assert not drain.done(102.0)
    store.release(running)
    assert not drain.done(103.0), "its last response may be on its way"
    assert drain.done(103.6)


def test_a_request_that_was_on_its_way_counts(store: ContextStore, tmp_path: Path) -> None:
    drain = Drain(12, 100.0, 20.0, tmp_path)
    assert not drain.done(100.0)
    late = store.put(StreamContext(1))
    assert not drain.done(100.6)
    store.discard(late)
    assert not drain.done(100.7)
    assert drain.done(101.3)


def test_its_time_is_bounded(store: ContextStore, tmp_path: Path) -> None:
    store.put(StreamContext(1))
    drain = Drain(12, 100.0, 20.0, tmp_path)
    assert not drain.done(119.9)
    assert drain.done(120.0)


def test_a_server_without_streams_of_ours_is_asked_at_once(
    store: ContextStore, tmp_path: Path
) -> None:
    store.put(StreamContext(1))
    assert Drain(1, 100.0, 20.0, tmp_path).done(100.0), "12 is another server"
    assert not store.draining


def test_new_requests_are_refused(store: ContextStore, tmp_path: Path, bpe_dir: Path) -> None:
    settings = PreprocessingSettings(tokenizer_dir=str(bpe_dir), stream_key="tensor")
    preprocessor = Preprocessor(settings, store)
    request = TextRequest(text_input=[b"a"])
    preprocessor.process(request)
    Drain(12, 100.0, 20.0, tmp_path)
    with pytest.raises(StoppingError, match="takes no new requests"):
        preprocessor.process(request)
    assert len(store) == 1
