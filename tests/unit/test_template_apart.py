"""A request's own template in its child process: what comes back, and what is left of it."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trt_tokenizers.errors import RequestError
from trt_tokenizers.guard import children
from trt_tokenizers.templates import apart
from trt_tokenizers.templates.apart import WALL_S, _ask_child, render_apart
from trt_tokenizers.templates.render import ChatTemplate

HI = [{"role": "user", "content": "hé 😀"}]


def test_it_is_what_is_rendered_here() -> None:
    source = "{{ bos_token }}{% for m in messages %}{{ m.content }}|{{ x }}{% endfor %}" + (
        "{{ tools | tojson }}"
    )
    given = {"tools": [{"name": "f"}], "arguments": {"x": 1.5}}
    expected = ChatTemplate("own", source).render(HI, {"bos_token": "<s>"}, **given)
    assert render_apart("own", source, HI, {"bos_token": "<s>"}, **given) == expected
    going_on = {"arguments": {"continue_final_message": True}}
    assert render_apart("own", "{{ messages[0].content }}x", HI, {}, **going_on) == "hé 😀"


@pytest.mark.parametrize(
    ("source", "message"),
    [("\n{% if %}", "template 'own', line 2: Expected"),
     ("{{ 1 | nonesuch }}", "template 'own', line 1: No filter named 'nonesuch'"),
     ("{{ 1 | " + "n" * 60_000 + " }}", "No filter named 'nnn"),
     ("{{ raise_exception('nö') }}", "template 'own' refuses these messages: nö"),
     ("{{ 1 / 0 }}", "template 'own' fails on these messages: division by zero"),
     ("x" * 70_000, "template 'own' has 70000 characters"),
     ("{{ '\\ud800' }}", "surrogates not allowed"),
     ("{% for i in range(9999999) %}{% endfor %}", "template 'own' fails .* Range too big"),
     ("{{ 'x' * 5000001 }}", "has 5000001 characters; at most 5000000 are served")],
    ids=range(9),
)  # fmt: skip
def test_refusals_say_the_same(source: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        render_apart("own", source, HI, {})
    assert len(str(caught.value)) < 1000


def spin() -> str:
    return str(("a" * 2_000_000).rfind("ab" + "a" * 1_000_000))


def swallow() -> str:
    while True:
        with contextlib.suppress(BaseException):  # a bound must not be one that can be caught
            spin()


OVER: dict[str, Callable[[], str]] = {
    "C code": spin,
    "caught": swallow,
    "memory": lambda: "x" * (1 << 30),
    "many": lambda: str([[n] for n in range(10**8)]),
    "locked": lambda: str(time.sleep(60)),
    "killed": lambda: str(os.kill(os.getpid(), signal.SIGKILL)),
    "exit": lambda: os._exit(0),
}


@pytest.mark.parametrize("name", OVER)
def test_what_goes_over_is_killed_and_collected(name: str) -> None:
    def counted() -> tuple[list[int], int]:
        return children(os.getpid()), len(list(Path("/proc/self/fd").iterdir()))

    before, started = counted(), time.monotonic()
    assert not _ask_child(OVER[name])
    assert time.monotonic() - started < WALL_S + 1, "a second is for a busy machine"
    assert counted() == before, "no zombie and no open pipe"


def test_what_was_cut_off_is_no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_answer", lambda make: b"+half of a prompt")
    with pytest.raises(RequestError, match="'own' takes more than 1 s of CPU time, 2 s in all or"):
        render_apart("own", "x", HI, {})


def test_an_error_of_ours_is_none_of_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "ChatTemplate", None)
    with pytest.raises(RuntimeError, match="TypeError"):
        render_apart("own", "x", HI, {})


def test_a_process_with_threads_that_hold_locks_goes_on() -> None:
    """As Triton's stub is one: they are not in the child, and what they hold is not asked for."""
    held, stop = threading.Lock(), threading.Event()
    held.acquire()
    threads = [threading.Thread(target=stop.wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert render_apart("own", "{{ messages[0].content }}", HI, {}) == "hé 😀"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert gc.isenabled()
