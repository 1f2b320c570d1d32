"""A server's log, its repository index and its processes."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trt_tokenizers.launcher.health_thread import HealthThread
from trt_tokenizers.launcher.process_tree import children, descendants
from trt_tokenizers.launcher.readiness import Readiness, judge, read_readiness
from trt_tokenizers.launcher.server_watch import (
    UNCOLLECTED,
    LogReader,
    StubWatch,
    copy_output,
    write_all,
)

FAILED = (
    b"E1123 15:48:46.676399 4253 model_lifecycle.cc:642] \"failed to load 'identity2' version 1: "
    b"Internal: ModuleNotFoundError: No module named '_struct'\\n\\nAt:\\n  /usr/lib/x.py(13)\"\n"
)
LOADED_24 = b"I1123 15:50:07.27 4764 model_lifecycle.cc:839] \"successfully loaded 'two'\"\n"
LOADED_23 = b"I1016 10:00:00.00 1 model_lifecycle.cc:818] successfully loaded 'two'\n"


@pytest.mark.parametrize("line", [LOADED_24, LOADED_23])
def test_loaded_models_are_found_at_every_split(line: bytes) -> None:
    for cut in range(len(line)):
        log = LogReader()
        assert log.feed(line[:cut], 1) + log.feed(line[cut:], 1) == ["two"]


def test_two_outputs_do_not_mix() -> None:
    log = LogReader()
    assert log.feed(b"successfully ", 0) == []
    assert log.feed(b"a line\n", 1) == []
    assert log.feed(b"loaded 'x'\n", 0) == ["x"]
    assert list(log.tail) == ["a line", "successfully loaded 'x'"]


def test_the_reason_is_the_first_model_that_failed() -> None:
    log = LogReader()
    assert log.reason is None
    log.feed(b"error: creating server: Internal - failed to load all models\n", 1)
    assert log.reason == "creating server: Internal - failed to load all models"
    log.feed(FAILED, 1)
    assert log.reason == "model 'identity2': ModuleNotFoundError: No module named '_struct'"


def test_the_tail_has_the_traceback_once() -> None:
    log = LogReader()
    log.feed(FAILED + FAILED.replace(b"E1123", b"E1124"), 1)
    first, *rest, second = log.tail
    assert "ModuleNotFoundError" in first
    assert "ModuleNotFoundError" in second
    assert rest == ["At:", "  /usr/lib/x.py(13)"]


def test_the_reason_of_an_expired_stop() -> None:
    log = LogReader()
    log.feed(b'E1 main.cc:535] "failed to stop server: Internal - Exit timeout expired."\n', 1)
    assert log.reason == "Internal - Exit timeout expired."


def test_the_reason_of_an_abort() -> None:
    log = LogReader()
    log.feed(b"terminate called after throwing an instance of 'x'\n  what():  x::lock\n", 1)
    assert log.reason == "x::lock"


def test_a_server_that_unloads_has_no_request() -> None:
    log = LogReader()
    log.feed(
        b'I1 s.cc:321] "Timeout 4: Found 0 model versions that have in-flight inferences"\n', 1
    )
    assert not log.unloading
    line = (
        b'I1 s.cc:345] "Timeout 4: Found 3 live models and %d in-flight non-inference requests"\n'
    )
    log.feed(line % 1, 1)
    assert not log.unloading
    log.feed(line % 0, 1)
    assert log.unloading


#: A stub: its first thread runs every 0.3 s, like the health thread; another one always waits.
STUB = """
import threading, time
def beat():
    while True:
        time.sleep(0.3)
threading.Thread(target=beat).start()
threading.Thread(target=threading.Event().wait).start()
"""
SERVER = f"""
import signal, subprocess, sys, time
if len(sys.argv) > 1:
    signal.signal(signal.SIGTERM, lambda *_: None)
stub = subprocess.Popen([sys.executable, "-S", "-c", {STUB!r}, "repo/chat/1/model.py"])
print(stub.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("serves", [True, False])
def test_a_stub_that_does_not_run_is_reported_while_the_server_serves(serves: bool) -> None:
    server = subprocess.Popen(
        [sys.executable, "-S", "-c", SERVER, *(["serves"] if serves else [])],
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    stub = int(server.stdout.readline())
    watch = StubWatch(server.pid)

    def look(seconds: float) -> list[str]:
        """What is reported within this time."""
        seen = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            seen.append(watch.look(time.monotonic()))
            time.sleep(0.05)
        return [text for text in seen if text]

    try:
        assert look(0.5) == []
        os.kill(stub, signal.SIGSTOP)
        assert look(0.4) == [], "not long enough"
        found = look(1.2)
        os.kill(stub, signal.SIGCONT)
        if serves:
            assert found[0].startswith("the Python process of model 'chat' did not run for ")
        else:
            assert found == [], "a lost stub ends a loading server by itself"
    finally:
        for pid in (stub, server.pid):
            os.kill(pid, signal.SIGKILL)
        server.communicate()


def test_a_pause_of_everything_is_not_reported() -> None:
    """If the observer did not run either, the process had no chance to run."""
    with subprocess.Popen([sys.executable, "-S", "-c", STUB]) as child:
        while len(list(Path(f"/proc/{child.pid}/task").iterdir())) < 2:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGSTOP)
        thread = HealthThread(child.pid)
        assert [thread.look(now) for now in (0.0, 60.0, 120.0)] == [0.0, 0.0, 0.0]
        child.kill()


@pytest.mark.parametrize(("state", "waited_s", "seconds"), [
    ("S", 0.0, 0.0),  # idle
    ("R", 0.65, 0.0),  # Triton waits a full second
    ("R", 0.75, 1.05),
    ("R", 3.0, 3.3),
    ("T", 1.0, 0.0),  # the rest of the second is not seen
])  # fmt: skip
def test_a_second_without_a_sign_is_too_long(
    tmp_path: Path, state: str, waited_s: float, seconds: float
) -> None:
    def show(ran: int, waited: float, runs: int, state: str) -> None:
        (tmp_path / "schedstat").write_text(f"{ran} {waited * 1e9:.0f} {runs}\n")
        (tmp_path / "stat").write_text(f"1 (a stub) {state} 0 0\n")

    thread = HealthThread(0)
    thread._task = tmp_path
    show(1000, 5.0, 10, "S")
    seen = [thread.look(100.0)]
    for tenth in range(1, 10):  # less than a second: it sleeps, or waits for a processor
        show(1000, 5.0, 10, state)
        seen.append(thread.look(100.0 + tenth / 10))
    assert not any(seen)
    show(2000, 5.0 + (0.0 if state == "T" else waited_s), 11, "S")
    assert thread.look(101.0 + waited_s) == pytest.approx(seconds)
    show(3000, 6.0 + waited_s, 20, "S")
    assert thread.look(103.0 + waited_s) == 0.0, "nine short waits"


def test_the_tail_is_bounded() -> None:
    log = LogReader()
    log.feed(b"".join(b"%d\n" % n for n in range(100)), 1)
    log.feed(b"x" * 10**6, 1)
    assert len(log.tail) == 20
    assert log.tail[-1] == "99"


def entry(name: str, state: str = "", reason: str = "") -> dict[str, str]:
    return {"name": name, "version": "1", "state": state, "reason": reason}


def test_ready_needs_every_model() -> None:
    assert not judge(True, [entry("a", "READY"), entry("b", "LOADING")]).ready
    assert not judge(False, [entry("a", "READY")]).ready
    assert judge(True, [entry("a", "READY"), entry("b", "READY")]).models == ("a", "b")
    assert judge(True, [entry("a", "READY"), entry("b", "READY")]).ready


def test_models_that_need_not_load_are_ignored() -> None:
    seen = judge(True, [entry("a", "READY"), entry("b"), entry("c", "UNAVAILABLE", "unloaded")])
    assert seen.ready
    assert seen.models == ("a",)
    assert seen.failed == ()


def test_a_model_that_failed_is_named_with_the_first_line() -> None:
    seen = judge(True, [entry("a", "UNAVAILABLE", "Internal: no\nAt: x"), entry("b", "READY")])
    assert seen.failed == (("a", "Internal: no"),)
    assert not seen.ready


def test_one_ready_version_is_enough() -> None:
    seen = judge(True, [entry("a", "UNAVAILABLE", "old"), entry("a", "READY")])
    assert seen.ready
    assert seen.failed == ()


def test_a_closed_port_is_not_ready() -> None:
    assert read_readiness("http://127.0.0.1:1") == Readiness()


def test_output_arrives_in_whole_lines_or_late() -> None:
    source, feed = os.pipe()
    shown: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    thread = threading.Thread(target=copy_output, args=(source, shown.put, 0.05))
    thread.start()
    os.write(feed, b"one\ntw")
    assert shown.get(timeout=5) == b"one\n"
    os.write(feed, b"o\n")
    assert shown.get(timeout=5) in (b"two\n", b"tw")  # the latter if this took over 50 ms
    os.write(feed, b"Password: ")  # no line end ever comes
    assert shown.get(timeout=5).endswith((b": ", b"o\n"))
    os.close(feed)
    thread.join(5)
    assert not thread.is_alive()


def test_output_without_patience_is_whole_lines() -> None:
    source, feed = os.pipe()
    shown: list[bytes] = []
    thread = threading.Thread(target=copy_output, args=(source, shown.append, None))
    thread.start()
    for piece in (b"o", b"ne\ntw", b"o\n", b"x" * 20_000, b"end"):
        os.write(feed, piece)
    os.close(feed)
    thread.join(5)
    assert b"".join(shown) == b"one\ntwo\n" + b"x" * 20_000 + b"end"
    assert shown[0].startswith(b"one\n")
    assert all(len(piece) < 40_000 for piece in shown)


def test_a_closed_reader_does_not_block_the_writer() -> None:
    result, target = os.pipe()
    os.close(result)
    write_all(target, b"x" * 10**6)  # more than a pipe holds
    os.close(target)


def test_a_stop_delayed_by_idle_connections_is_clean() -> None:
    expired = b'E1 main.cc:535] "failed to stop server: Internal - Exit timeout expired."\n'
    count = (
        b'I1 server.cc:321] "Timeout %d: Found %d model versions that have in-flight inferences"\n'
    )
    for left, running, drained in ((0, 0, True), (0, 1, False), (7, 0, False)):
        log = LogReader()
        log.feed(count % (left, running), 1)
        assert not log.drained, "the server may still end in time"
        log.feed(expired, 1)
        assert log.drained is drained


def test_a_lasting_zombie_is_reported() -> None:
    # A "server" that does not collect its dead "stub".
    code = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', 'input()', "
        "'repo/chat/1/model.py'], stdin=0); print(p.pid, flush=True); import time; time.sleep(60)"
    )
    server = subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        stub = int(server.stdout.readline())
        assert children(server.pid) == [stub]
        assert stub in descendants(os.getpid())
        watch = StubWatch(server.pid)
        now = 0.0
        while watch.look(now) is None and not watch.stubs.get(stub, "").startswith("model"):
            time.sleep(0.01)
            now += 1.0
        os.kill(stub, 15)
        deadline = time.monotonic() + 5
        while not watch._suspects and time.monotonic() < deadline:
            now += 1.0
            assert watch.look(now) is None, "just now"
            time.sleep(0.01)
        assert watch.look(now + UNCOLLECTED / 2) is None, "not long enough"
        seen = watch.look(now + UNCOLLECTED)
        assert seen == "the Python process of model 'chat' died (SIGTERM)"
    finally:
        server.kill()
        server.communicate()


def test_children_without_the_kernels_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONFIG_PROC_CHILDREN is optional."""
    iterdir = Path.iterdir

    def without_tasks(path: Path) -> Iterator[Path]:
        if path.name == "task":
            raise FileNotFoundError
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", without_tasks)
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in children(os.getpid())


def test_children_of_a_missing_process() -> None:
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    assert children(gone.pid) == []
