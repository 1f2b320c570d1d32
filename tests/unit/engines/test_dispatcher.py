"""The dispatcher without Triton: real threads, and a sender that records responses.

Also parsing of the engine's tensors, and cancel messages.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launching import until
from trt_tokenizers.engines.base import (
    Chunk,
    Emit,
    Engine,
    FinishReason,
    GenerationRequest,
    validate,
)
from trt_tokenizers.engines.dispatcher import ResponseDispatcher
from trt_tokenizers.engines.serving_settings import ServingSettings
from trt_tokenizers.engines.tensors import OUTPUTS, PERF, output_arrays, parse_requests
from trt_tokenizers.errors import (
    EngineError,
    RequestError,
    TrtTokenizersError,
    UnavailableError,
)
from trt_tokenizers.streams.cancellation import CancelReceiver, CancelSender
from trt_tokenizers.streams.ensemble_inputs import supported_by
from trt_tokenizers.streams.stream_key import unpack

NOT_FINISHED = FinishReason.NOT_FINISHED
SETTINGS = ServingSettings("x")


class Manual(Engine):
    """The test calls its emit functions."""

    supported = frozenset({"stream", "max_tokens", "return_log_probs", "seed"})
    max_seq_len = 100

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.emits: dict[int, Emit] = {}
        self.cancelled: list[int] = []
        self.refuse: dict[int, Exception] = {}

    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        if request.key in self.refuse:
            raise self.refuse[request.key]
        self.emits[request.key] = emit

    def cancel(self, key: int) -> None:
        self.cancelled.append(key)

    def stop(self) -> None:
        pass


class Recorder:
    """Records the responses of a request."""

    def __init__(self, slow: threading.Event | None = None) -> None:
        self.wanted = frozenset(OUTPUTS)
        self.sent: list[tuple[list[list[int]], bool]] = []
        self.finish: list[FinishReason] = []
        self.error: TrtTokenizersError | None = None
        self.done = threading.Event()
        self.cancelled = False
        self.postprocessed = False
        self.slow = slow

    def send(self, arrays: dict[str, Any], *, final: bool) -> None:
        if self.slow is not None:
            self.slow.wait(5)
        ids = [[i for i in row[0] if i >= 0] for row in arrays["output_ids"].tolist()]
        self.sent.append((ids, final))
        self.finish += [unpack(k)[1] for k in arrays["stream_key"][:, 0].tolist()]
        if final:
            self.done.set()

    def fail(self, error: TrtTokenizersError) -> None:
        self.error = error
        self.done.set()

    def is_cancelled(self) -> bool:
        return self.cancelled


def request(key: int, *, stream: bool = True) -> GenerationRequest:
    return GenerationRequest(key=key, prompt_ids=(1,), max_tokens=9, stream=stream)


@pytest.fixture
def engine() -> Manual:
    return Manual({})


def test_tokens_accumulate_while_a_response_is_sent(engine: Manual) -> None:
    slow = threading.Event()
    dispatcher, sender = ResponseDispatcher(engine, SETTINGS), Recorder(slow)
    dispatcher.submit([request(1)], sender)
    for n in range(6):
        engine.emits[1](Chunk(token_ids=(n,)))
        time.sleep(0.02)
    engine.emits[1](Chunk(finish_reason=FinishReason.LENGTH))
    slow.set()
    assert sender.done.wait(5)
    assert sender.sent == [([[0]], False), ([[1, 2, 3, 4, 5]], True)]
    assert sender.finish == [NOT_FINISHED, FinishReason.LENGTH]
    dispatcher.stop()


def test_a_chunk_after_the_last_one_does_not_hide_the_end(engine: Manual) -> None:
    """As of an engine whose step runs while another thread cancels the sequence."""
    slow = threading.Event()
    dispatcher, sender = ResponseDispatcher(engine, SETTINGS), Recorder(slow)
    dispatcher.submit([request(1)], sender)
    for chunk in (
        Chunk(token_ids=(0,)),
        Chunk(token_ids=(1,)),
        Chunk(finish_reason=FinishReason.CANCELLED),
        Chunk(token_ids=(2,)),
    ):
        engine.emits[1](chunk)
        time.sleep(0.02)
    slow.set()
    assert sender.done.wait(5)
    assert sender.sent == [([[0]], False), ([[1]], True)]
    assert sender.finish == [NOT_FINISHED, FinishReason.CANCELLED]
    assert dispatcher.running == 0
    dispatcher.stop()


@pytest.mark.parametrize(("most", "sizes"), [(1, [1] * 6), (2, [1, 2, 2, 1]), (4, [1, 4, 1])])
def test_a_response_has_at_most_max_tokens_per_chunk(
    engine: Manual, most: int, sizes: list[int]
) -> None:
    slow = threading.Event()
    dispatcher, sender = ResponseDispatcher(engine, ServingSettings("x", most)), Recorder(slow)
    dispatcher.submit([request(1)], sender)
    engine.emits[1](Chunk(token_ids=(0,)))
    time.sleep(0.05)
    for n in range(1, 6):
        last = FinishReason(2 if n == 5 else 0)
        engine.emits[1](Chunk(token_ids=(n,), finish_reason=last))
    slow.set()
    assert sender.done.wait(5)
    assert [len(ids[0]) for ids, _ in sender.sent] == sizes
    assert [i for ids, _ in sender.sent for i in ids[0]] == list(range(6))
    dispatcher.stop()


def test_without_streaming_chunks_merge_into_one_response(engine: Manual) -> None:
    dispatcher, sender = ResponseDispatcher(engine, SETTINGS), Recorder()
    dispatcher.submit([request(1, stream=False), request(2, stream=False)], sender)
    engine.emits[1](Chunk(token_ids=(1, 2)))
    engine.emits[2](Chunk(token_ids=(7,), finish_reason=FinishReason.STOP))
    time.sleep(0.05)
    engine.emits[1](Chunk(token_ids=(3,), finish_reason=FinishReason.STOP))
    assert sender.done.wait(5)
    assert sender.sent == [([[1, 2, 3], [7]], True)]
    dispatcher.stop()


@pytest.mark.parametrize("keys", [(1, 1), (2, 3)])
def test_a_key_in_use_is_refused(engine: Manual, keys: tuple[int, int]) -> None:
    dispatcher, sender = ResponseDispatcher(engine, SETTINGS), Recorder()
    dispatcher.submit([request(3)], Recorder())
    with pytest.raises(RequestError, match="belongs to a running stream"):
        dispatcher.submit([request(key) for key in keys], sender)
    engine.emits[3](Chunk(finish_reason=FinishReason.STOP))
    time.sleep(0.05)
    dispatcher.submit([request(3)], sender)  # free again
    dispatcher.stop()


@pytest.mark.parametrize("error", [RequestError("no"), EngineError("no"), RuntimeError("bug")])
def test_a_refused_row_ends_its_request_and_no_other(engine: Manual, error: Exception) -> None:
    dispatcher, sender, other = ResponseDispatcher(engine, SETTINGS), Recorder(), Recorder()
    dispatcher.submit([request(9)], other)
    engine.refuse[2] = error
    with pytest.raises(type(error)):
        dispatcher.submit([request(1), request(2)], sender)
    engine.emits[1](Chunk(token_ids=(5,), finish_reason=FinishReason.STOP))
    engine.emits[9](Chunk(token_ids=(5,), finish_reason=FinishReason.STOP))
    assert other.done.wait(5)
    assert sender.sent == [], "nothing is sent after the error"
    assert 1 in engine.cancelled
    assert 9 not in engine.cancelled
    dispatcher.stop()


def test_an_error_ends_the_request_and_cancels_its_other_rows(engine: Manual) -> None:
    dispatcher, sender = ResponseDispatcher(engine, SETTINGS), Recorder()
    dispatcher.submit([request(1), request(2)], sender)
    engine.emits[1](Chunk(error="out of memory"))
    assert sender.done.wait(5)
    assert str(sender.error) == "out of memory"
    engine.emits[2](Chunk(token_ids=(5,), finish_reason=FinishReason.STOP))
    time.sleep(0.05)
    assert sender.sent == []
    assert 2 in engine.cancelled
    dispatcher.stop()


@pytest.mark.parametrize("stream", [True, False])
def test_a_cancelled_request_is_cancelled_in_the_engine(engine: Manual, stream: bool) -> None:
    dispatcher, sender = ResponseDispatcher(engine, SETTINGS), Recorder()
    sender.cancelled = True
    dispatcher.submit([request(1, stream=stream)], sender)
    deadline = time.monotonic() + 5
    while not engine.cancelled and time.monotonic() < deadline:
        if stream:
            engine.emits[1](Chunk(token_ids=(1,)))
        time.sleep(0.05)
    assert engine.cancelled == [1]
    dispatcher.stop()


def test_a_silent_stream_sends_empty_chunks(
    engine: Manual, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one lets postprocessing learn whether the client is gone."""
    monkeypatch.setattr("trt_tokenizers.engines.dispatcher._POLL_S", 0.05)
    alive, stream, whole = list[int](), Recorder(), Recorder()
    dispatcher = ResponseDispatcher(engine, SETTINGS, keep_alive=alive.append)
    dispatcher.submit([request(1), request(5)], stream)
    dispatcher.submit([request(2, stream=False), request(3, stream=False)], whole)
    engine.emits[3](Chunk(finish_reason=FinishReason.LENGTH))
    engine.emits[1](Chunk(token_ids=(7,), finish_reason=FinishReason.LENGTH))
    until(lambda: len(stream.sent) > 3)
    assert stream.sent[0] == ([[7]], False)
    assert stream.sent[1:4] == [([[]], False)] * 3, "only for the row that has not ended"
    assert whole.sent == [], "the generate endpoint allows one response only"
    # Postprocessing keeps the contexts of streams alive.
    assert set(alive[2:]) == {2}, "a draining server waits for it"
    dispatcher.stop()


@pytest.mark.parametrize("generated_at_once", [0, 2])
def test_requests_beyond_the_queue_are_unavailable(engine: Manual, generated_at_once: int) -> None:
    engine.max_batch_size = generated_at_once
    dispatcher = ResponseDispatcher(engine, ServingSettings("x", max_queue_size=2))
    most = generated_at_once + 2
    senders = [Recorder() for _ in range(most)]
    for key, sender in enumerate(senders):
        dispatcher.submit([request(key)], sender)
    with pytest.raises(UnavailableError, match=f"at most {most}, by max_queue_size; try again"):
        dispatcher.submit([request(99)], Recorder())
    assert 99 not in engine.emits
    engine.emits[0](Chunk(finish_reason=FinishReason.LENGTH))
    assert senders[0].done.wait(5)
    until(lambda: dispatcher.running == most - 1)
    dispatcher.submit([request(99)], Recorder())
    dispatcher.stop()


def test_without_decoupled_responses_a_stream_is_refused(engine: Manual) -> None:
    dispatcher, sender = ResponseDispatcher(engine, SETTINGS, decoupled=False), Recorder()
    with pytest.raises(RequestError, match=r"stream is true, .*decoupled_mode is false.*leave it"):
        dispatcher.submit([request(1)], sender)
    dispatcher.submit([request(2, stream=False)], sender)
    engine.emits[2](Chunk(token_ids=(4, 5), finish_reason=FinishReason.LENGTH))
    assert sender.done.wait(5)
    assert sender.sent == [([[4, 5]], True)]
    dispatcher.stop()


def test_death_is_reported_once_after_the_errors(
    engine: Manual, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trt_tokenizers.engines.dispatcher._POLL_S", 0.1)
    reported: list[str] = []
    dispatcher, sender = ResponseDispatcher(engine, SETTINGS, reported.append), Recorder()
    dispatcher.submit([request(1)], sender)
    engine.died = "no more"
    engine.emits[1](Chunk(error="no more"))
    assert sender.done.wait(5)
    until(lambda: reported)
    time.sleep(0.3)
    assert reported == ["no more"]
    dispatcher.stop()


def arrays(**more: Any) -> dict[str, Any]:
    values = {"input_ids": [[5, 6, 0], [7, 0, 0]], "input_lengths": [[2], [1]],
            "request_output_len": [[4], [5]], **more}  # fmt: skip
    return {name: np.array(value) for name, value in values.items()}


def test_rows_become_requests() -> None:
    first, second = parse_requests(
        arrays(end_id=[[2], [-1]], runtime_top_k=[[0], [3]], random_seed=[[1], [1]])
    )
    assert (first.prompt_ids, second.prompt_ids) == ((5, 6), (7,))
    assert (first.end_ids, second.end_ids) == (frozenset({2}), frozenset())
    assert (first.given, second.given) == ({"random_seed"}, {"random_seed", "top_k"})
    assert first.greedy
    assert not second.greedy
    assert first.key != second.key


def test_min_p_alone_starts_sampling() -> None:
    first, second = parse_requests(arrays(min_p=np.array([[0.0], [0.25]], np.float32)))
    assert (first.min_p, first.given, first.greedy) == (0, frozenset(), True)
    assert (second.min_p, second.given, second.greedy) == (0.25, {"min_p"}, False)


class Everything(Manual):
    supported = supported_by("transformers")


@pytest.mark.parametrize(
    ("name", "served", "refused", "message"),
    [
        ("temperature", [0.0, 100.0], [-0.1, 100.5, np.nan], "between 0 and 100"),
        ("runtime_top_k", [0, 1, 2**31 - 1], [-1], "at least 0"),
        ("runtime_top_p", [0.0, 0.1, 1.0], [-0.1, 1.5, np.nan], "above 0 and at most 1"),
        ("min_p", [0.0, 0.1, 1.0], [-0.1, 1.5, np.inf], "between 0 and 1"),
        ("repetition_penalty", [0.1, 100.0], [0.0, 101.0], "above 0 and at most 100"),
        ("presence_penalty", [-100.0, 100.0], [-101.0, 101.0], "between -100 and 100"),
        ("frequency_penalty", [-100.0, 100.0], [-101.0, 101.0], "between -100 and 100"),
        ("min_tokens", [0, 4], [-1], "at least 0"),
        ("min_length", [0, 4], [5], r"min_tokens is 5; it must be at most max_tokens \(4\)"),
    ],
)
def test_ranges(name: str, served: list[float], refused: list[float], message: str) -> None:
    def check(value: float) -> None:
        row = {"input_ids": [[5]], "request_output_len": [[4]], name: [[value]]}
        (request,) = parse_requests({each: np.array(values) for each, values in row.items()})
        validate(request, Everything({}))

    for value in served:
        check(value)
    for value in refused:
        with pytest.raises(RequestError, match=message):
            check(value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"input_lengths": [[-1], [1]]}, "input_lengths is -1; it must be 1 to 3"),
        ({"input_lengths": [[4], [1]]}, "input_lengths is 4"),
        ({"stream_key": [[-1], [5]]}, "stream_key is -1"),
        ({"stream_key": [[2**53], [5]]}, "stream_key is 9007199254740992"),
        ({"num_return_sequences": [[1], [0]]}, "sequences is 0; it must be between 1 and 255"),
        ({"num_return_sequences": [[256], [1]]}, "num_return_sequences is 256; it must be between"),
        (
            {"num_return_sequences": [[1], [2]]},
            "is 2, but a response .* holds one answer; send stream true",
        ),
        ({"beam_width": [[1], [2]]}, "beam_width is 2; this engine serves 1 only"),
        ({"return_context_logits": [[True], [False]]}, "return_context_logits is True; .* False"),
        ({"return_kv_cache_reuse_stats": [[True], [True]]}, "return_kv_cache_reuse_stats is True"),
        ({"stop": [[False], [True]]}, "stop is True; this engine serves False only"),
        ({"lora_task_id": [[1], [1]]}, "lora_task_id is only for TensorRT-LLM's C.. backend"),
        ({"prompt_embedding_table": np.zeros((2, 1, 4))}, "prompt_embedding_table is only for"),
        ({"seed": [[1], [1]], "random_seed": [[1], [2]]}, "both mean the same"),
        ({"streaming": [[True], [False]]}, "differ between the texts of one request"),
    ],
)
def test_bad_tensors_are_named(more: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_requests(arrays(**more))


def several(**more: Any) -> list[GenerationRequest]:
    """Requests for two texts, with three sequences for the first."""
    counts = {"num_return_sequences": [[3], [1]], "streaming": [[True], [True]]}
    return parse_requests(arrays(**counts, stream_key=[[2**53 - 1], [8]], **more))


def test_several_sequences_of_a_text_have_consecutive_seeds() -> None:
    highest = 2**64 - 1
    rows = several(seed=np.array([[highest], [4]], np.uint64))
    assert [(r.row, r.sequence, r.seed) for r in rows] == [
        (0, 0, highest), (0, 1, 0), (0, 2, 1), (1, None, 4),
    ]  # fmt: skip
    assert [r.prompt_ids for r in rows] == [(5, 6)] * 3 + [(7,)]
    assert len({r.key for r in rows}) == 4
    assert [r.seed for r in several()] == [None] * 4, "each sequence draws its own seed"


def test_sequences_of_one_request_are_identified_in_its_responses(engine: Manual) -> None:
    dispatcher, sender, sent = ResponseDispatcher(engine, SETTINGS), Recorder(), []

    def send(arrays: dict[str, Any], *, final: bool) -> None:
        (packed,), (row,), (index,) = (
            arrays[name][:, 0].tolist() for name in ("stream_key", "batch_index", "sequence_index")
        )
        sent.append((*unpack(packed), row, index, final))
        if final:
            sender.done.set()

    sender.send = send
    rows = several()
    dispatcher.submit(rows, sender)
    for at in (2, 0, 3, 1):
        engine.emits[rows[at].key](Chunk(token_ids=(1,), finish_reason=FinishReason.LENGTH))
    assert sender.done.wait(5)
    key, length = 2**53 - 1, FinishReason.LENGTH
    assert sent == [
        (key, length, 2, 0, 2, False), (key, length, 0, 0, 0, False),
        (8, length, None, 1, 0, False), (key, length, 1, 0, 1, True),
    ]  # fmt: skip
    dispatcher.stop()


def test_the_highest_sequence_index_fits_into_stream_key() -> None:
    *_, last = parse_requests({
        **arrays(num_return_sequences=[[255], [255]], streaming=[[True], [True]],
                 stream_key=[[1], [2**53 - 1]]),
    })  # fmt: skip
    packed = output_arrays([Chunk(finish_reason=FinishReason.CANCELLED)], [last])["stream_key"]
    assert unpack(packed.item()) == (2**53 - 1, FinishReason.CANCELLED, 254)


def test_several_sequences_need_the_output_sequence_index(engine: Manual) -> None:
    dispatcher, sender = ResponseDispatcher(engine, SETTINGS), Recorder()
    sender.wanted = sender.wanted - {"sequence_index"}
    with pytest.raises(RequestError, match=r"has no output sequence_index.*--outputs"):
        dispatcher.submit(several(), sender)
    assert engine.emits == {}
    dispatcher.stop()


def test_no_error_ends_the_sender_thread(engine: Manual, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_tokenizers.engines.dispatcher._POLL_S", 0.1)
    dispatcher = ResponseDispatcher(engine, SETTINGS)
    broken, other = Recorder(), Recorder()
    broken.cancelled = True
    raised = []
    broken.is_cancelled = lambda: raised.append(1) or 1 / 0
    dispatcher.submit([request(1)], broken)
    until(lambda: raised)
    dispatcher.submit([request(2)], other)
    engine.emits[2](Chunk(token_ids=(1,), log_probs=(0.0, 0.0, 0.0)))  # more log-probs than tokens
    last = Recorder()
    dispatcher.submit([request(3)], last)
    engine.emits[3](Chunk(token_ids=(4,), finish_reason=FinishReason.STOP))
    assert last.done.wait(5)
    assert last.sent == [([[4]], True)]
    dispatcher.stop()


def test_a_response_that_cannot_be_sent_is_an_error(engine: Manual) -> None:
    dispatcher, sender = ResponseDispatcher(engine, SETTINGS), Recorder()
    sender.send = lambda arrays, *, final: 1 / 0
    dispatcher.submit([request(1)], sender)
    engine.emits[1](Chunk(token_ids=(1,)))
    assert sender.done.wait(5)
    assert "a response could not be sent" in str(sender.error)
    assert engine.cancelled == [1]
    dispatcher.stop()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("wanted", [*({name} for name in OUTPUTS), set(OUTPUTS), set()])
def test_a_response_has_exactly_the_requested_outputs(
    engine: Manual, wanted: set[str], stream: bool
) -> None:
    """Triton 24.10 with Python 3.12 crashes on other outputs."""
    dispatcher, sender = ResponseDispatcher(engine, SETTINGS), Recorder()
    sender.wanted = frozenset(wanted | {"other"})
    sent: list[set[str]] = []
    sender.send = lambda arrays, *, final: sent.append(set(arrays))
    row = GenerationRequest(
        key=1, prompt_ids=(1,), max_tokens=9, stream=stream, return_log_probs=True,
        return_perf_metrics=True,
    )  # fmt: skip
    dispatcher.submit([row], sender)
    figures = dict.fromkeys(PERF, 1.0)
    engine.emits[1](Chunk((1,), (-1.0,), FinishReason.LENGTH, perf=figures))
    dispatcher.stop()
    assert sent == [wanted - {"batch_index", "sequence_index"}]


def test_indices_are_sent_if_there_are_several_rows_or_sequences(engine: Manual) -> None:
    """As TensorRT-LLM sends them."""
    dispatcher, sent = ResponseDispatcher(engine, SETTINGS), []
    for rows in (
        [request(1), dataclasses.replace(request(2), row=1)],
        [dataclasses.replace(request(3 + n), sequence=n) for n in range(2)],
    ):
        sender = Recorder()
        sender.wanted = frozenset(OUTPUTS)
        sender.send = lambda arrays, *, final: sent.append(set(arrays))
        dispatcher.submit(rows, sender)
        for row in rows:
            engine.emits[row.key](Chunk((1,), finish_reason=FinishReason.LENGTH))
    dispatcher.stop()
    indices = {"batch_index", "sequence_index"}
    assert [arrays & indices for arrays in sent] == [
        {"batch_index"}, {"batch_index"}, {"sequence_index"}, {"sequence_index"},
    ]  # fmt: skip


def test_stop_sends_the_remaining_tokens(engine: Manual) -> None:
    dispatcher, sender = ResponseDispatcher(engine, ServingSettings("x", 1)), Recorder()
    dispatcher.submit([request(1)], sender)
    for n in range(6):
        last = FinishReason(3 if n == 5 else 0)
        engine.emits[1](Chunk(token_ids=(n,), finish_reason=last))
    dispatcher.stop()
    assert [ids[0] for ids, _ in sender.sent] == [[n] for n in range(6)]
    assert sender.done.is_set()


def test_cancel_messages_survive_bad_messages_and_reloads(tmp_path: Path) -> None:
    stopped: list[int] = []

    def stop(key: int) -> None:
        stopped.append(key)
        if key == 1:
            raise RuntimeError("bug")

    old, sender = CancelReceiver(tmp_path, stop), CancelSender(tmp_path)
    sender.send(1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for path in tmp_path.glob("engine-*"):
            stranger.sendto(b"abc", str(path))
            stranger.sendto(b"", str(path))
    new = CancelReceiver(tmp_path, stop)
    old.close()
    sender.send(2)
    sender.send(3)
    deadline = time.monotonic() + 5
    while len(stopped) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stopped == [1, 2, 3]
    new.close()
    sender.send(4)  # no receiver
    sender.close()
