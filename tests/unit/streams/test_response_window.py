"""The engine waits for postprocessing, but not for responses that it never gets."""

import threading
import time
from pathlib import Path

import pytest

from trt_tokenizers.streams import response_window
from trt_tokenizers.streams.response_window import (
    REFILL,
    WINDOW,
    ProcessedResponses,
    ResponseWindow,
)


def enter(window: ResponseWindow, times: int) -> threading.Thread:
    thread = threading.Thread(target=lambda: [window.enter() for _ in range(times)], daemon=True)
    thread.start()
    return thread


def test_the_engine_stays_at_most_a_window_ahead(tmp_path: Path) -> None:
    window, processed, most = ResponseWindow(tmp_path), ProcessedResponses(tmp_path), 0
    thread = enter(window, 200)
    for done in range(200):
        while window._sent == done:
            time.sleep(0)
        most = max(most, window._sent - done)
        processed.add()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert window._sent == 200
    assert most <= WINDOW


def test_responses_that_never_arrive_stop_nothing(tmp_path: Path) -> None:
    window = ResponseWindow(tmp_path)
    ProcessedResponses(tmp_path)
    thread = enter(window, 10 * WINDOW)
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_responses_of_others_do_not_block(tmp_path: Path) -> None:
    window, processed = ResponseWindow(tmp_path), ProcessedResponses(tmp_path)
    for _ in range(3 * WINDOW):
        processed.add()
        processed.add()
        window.enter()
    assert enter(window, WINDOW - 1).join(timeout=10) is None
    assert window._sent - window._counter[0] <= WINDOW


def test_the_counter_outlives_a_reload(tmp_path: Path) -> None:
    first = ProcessedResponses(tmp_path)
    first.add()
    second = ProcessedResponses(tmp_path)
    second.add()
    assert first._counter[0] == 2


def test_a_full_window_is_filled_again_when_few_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_window, "_LOST_POLLS", 10**6)  # this test may be slow
    window, processed = ResponseWindow(tmp_path), ProcessedResponses(tmp_path)
    for _ in range(WINDOW):
        window.enter()
    thread = enter(window, WINDOW - REFILL)
    for _ in range(WINDOW - REFILL):
        time.sleep(0.002)
        assert window._sent == WINDOW
        processed.add()
    thread.join(timeout=10)
    assert window._sent == 2 * WINDOW - REFILL
