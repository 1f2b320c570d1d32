"""Stop strings and stop ids: the right place, for a cost that does not depend on their number."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_tokenizers.processing.stop_strings import StopIds, StopStrings

FEW = st.text("ab", min_size=1, max_size=5)


def first_stop(text: str, stops: list[str]) -> tuple[int, str] | None:
    """End of the first complete stop string, and the longest one that ends there."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            return end, max(found, key=len)
    return None


@given(st.lists(FEW, max_size=4), st.lists(st.text("abc", max_size=5), max_size=6), st.booleans())
def test_the_text_ends_at_the_first_complete_stop_string(
    stops: list[str], pieces: list[str], include: bool
) -> None:
    its = StopStrings(stops, include=include)
    text = "".join(pieces)
    got = "".join(its.feed(piece) for piece in pieces) + its.finish()
    found = first_stop(text, stops)
    assert its.stopped == (found is not None)
    if found is None:
        assert got == text
    else:
        assert got == text[: found[0] if include else found[0] - len(found[1])]


@given(st.lists(FEW, min_size=1, max_size=4), st.text("abc", max_size=20))
def test_only_the_beginning_of_a_stop_string_is_held(stops: list[str], text: str) -> None:
    its = StopStrings(stops)
    its.feed(text)
    if not its.stopped:
        begins = [n for n in range(len(text) + 1) if any(s.startswith(text[n:]) for s in stops)]
        assert its.finish() == text[begins[0] :]


IDS = st.lists(st.integers(0, 2), min_size=1, max_size=3).map(tuple)


@given(st.lists(IDS, max_size=4), st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=6))
def test_a_stop_word_is_found_at_the_end_of_the_ids(
    words: list[tuple[int, ...]], pieces: list[list[int]]
) -> None:
    its, ids = StopIds(words), list[int]()
    for piece in pieces:
        ids += piece
        expected = any(tuple(ids[-len(word) :]) == word for word in words)
        assert its.feed(piece) == expected
        assert its.end(ids) == expected


def lines_run(function: Any, *arguments: Any) -> int:
    """Python lines that a call runs."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*arguments)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("text", ["the quick brown fox", "word-12word-123 word", "x" * 50])
def test_the_work_does_not_grow_with_the_number_of_stop_strings(text: str) -> None:
    """Comparisons inside bisect grow by one for twice as many."""
    few, many = (StopStrings(f"word-{n:05}." for n in range(count)) for count in (10, 10_000))
    assert lines_run(many.feed, text) <= lines_run(few.feed, text) + len(text)
    ids = list(range(10))
    few_ids, many_ids = (StopIds((n, n + 1, n + 2) for n in range(c)) for c in (10, 10_000))
    assert lines_run(many_ids.feed, ids) == lines_run(few_ids.feed, ids)
