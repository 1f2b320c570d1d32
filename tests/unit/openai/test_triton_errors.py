"""Errors of Triton's streams, which have no codes -> HTTP status."""

from __future__ import annotations

import pytest

from trt_tokenizers.openai.triton import _error_of_stream


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("in ensemble 'e', top_k is -3; it\nmust be", 400, "top_k is -3; it must be"),
        ("in ensemble 'e', unavailable: too many requests", 503, "too many requests"),
        ("in ensemble 'e', internal error: the engine is gone", 500, "the engine is gone"),
        ("in ensemble 'e', Failed to process the request(s) for model 'x', message: a", 500,
         "Failed to process the request(s) for model 'x', message: a"),
        ("Request for unknown model: 'e' is not found", 503,
         "Request for unknown model: 'e' is not found"),
        ("Server is stopping, scheduler for model has stopped", 503,
         "Server is stopping, scheduler for model has stopped"),
    ],
)  # fmt: skip
def test_the_words_say_whose_error_it_is(text: str, status: int, message: str) -> None:
    error = _error_of_stream(text)
    assert (error.status, str(error)) == (status, message)
