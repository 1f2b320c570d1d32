"""The drain of one server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preprocessing import process
from trt_tokenizers.errors import StoppingError
from trt_tokenizers.launcher.drain import SILENT_S, Drain
from trt_tokenizers.processing.preprocess import PreprocessingSettings, Preprocessor
from trt_tokenizers.processing.request import TextRequest
from trt_tokenizers.streams.context_store import LOOK_S, ContextStore, RequestContext
from trt_tokenizers.streams.stream_folder import stream_folder


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "trt-tokenizers-12-34")


def test_the_drain_waits_for_the_last_stream(store: ContextStore) -> None:
    waiting, running = (store.put(RequestContext(1)) for _ in range(2))
    store.take(running)
    drain = Drain(store.directory, 100.0, 20.0)
    assert not drain.done(101.0)
    store.take(waiting)
    store.release(waiting)
    assert not drain.done(102.0)
    store.release(running)
    assert not drain.done(103.0), "its last response may not have arrived"
    assert drain.done(103.6)


def test_a_request_that_passed_preprocessing_late_counts(store: ContextStore) -> None:
    drain = Drain(store.directory, 100.0, 20.0)
    assert not drain.done(100.0)
    late = store.put(RequestContext(1))
    assert not drain.done(100.6)
    store.discard(late)
    assert not drain.done(100.7)
    assert drain.done(101.3)


def test_the_drain_ends_at_its_deadline(store: ContextStore) -> None:
    store.put(RequestContext(1))
    drain = Drain(store.directory, 100.0, 20.0)
    assert not drain.done(119.9)
    assert drain.done(120.0)


def test_a_server_without_our_models_gets_sigterm_at_once(tmp_path: Path) -> None:
    assert Drain(tmp_path / "trt-tokenizers-1-2", 100.0, 20.0).done(100.0)


@pytest.mark.parametrize("echo", ["", "kept by name " * 100])
def test_a_silent_stream_does_not_delay_the_drain(
    store: ContextStore, monkeypatch: pytest.MonkeyPatch, echo: str
) -> None:
    """Many engines do not mark their last response."""
    assert SILENT_S > 5
    monkeypatch.setattr("trt_tokenizers.launcher.drain.SILENT_S", 0.3)
    key = store.put(RequestContext(1, echo=echo))
    store.take(key)
    time.sleep(0.35)
    drain = Drain(store.directory, 100.0, 20.0)
    assert not drain.done(100.0), "its last response may not have arrived"
    store.touch(key)
    assert not drain.done(101.0), "it is active again"
    time.sleep(0.35)
    assert not drain.done(102.0)
    assert drain.done(103.0)
    store.touch(key)
    assert not drain.done(104.0)
    waiting = store.put(RequestContext(1, echo=echo))
    time.sleep(0.35)
    assert not drain.done(105.0), "a waiting request always counts"
    store.discard(waiting)
    assert not drain.done(106.0)
    assert drain.done(107.0)


def test_the_folder_name_contains_the_start_time() -> None:
    own = stream_folder(os.getpid())
    assert own.parent == Path("/dev/shm")
    assert own.name.startswith(f"trt-tokenizers-{os.getpid()}-")
    assert own.name != f"trt-tokenizers-{os.getpid()}-0"


#: Without shared memory: a server, whose Python model has one stream, is killed.
NO_SHM = """
import os, subprocess, sys
from pathlib import Path
from trt_tokenizers.launcher import drain, process_tree, shared_memory
from trt_tokenizers.streams import stream_folder as folders
folders.SHM = Path("/nowhere")
model = "import os, time; from pathlib import Path; "
model += "from trt_tokenizers.streams import stream_folder; "
model += "from trt_tokenizers.streams import context_store as contexts; "
model += "stream_folder.SHM = Path('/nowhere'); store = contexts.ContextStore(); "
model += "store.put(contexts.RequestContext(1)); print(store.directory, flush=True); time.sleep(60)"
server = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
command = [sys.executable, "-c", server, model]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    folder = Path(process.stdout.readline().strip())
    print(folder.parent, folders.stream_folder(process.pid) == folder)
    print(drain.Drain(folder, 0.0, 20.0).done(1.0), (folder / folders.MARK).exists())
    found = process_tree.kill_all_beneath(os.getpid())
    print(folder in found, folder.exists())
    shared_memory.sweep("no-such-prefix", found)
    print(folder.exists())
"""


def test_server_drain_and_sweep_agree_without_shared_memory(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", NO_SHM]
    out = subprocess.check_output(command, env=environment, text=True, timeout=60)
    assert out.splitlines() == [f"{tmp_path} True", "False True", "True True", "False"]


def test_new_requests_are_refused(store: ContextStore, bpe_dir: Path) -> None:
    settings = PreprocessingSettings(tokenizer_dir=str(bpe_dir), stream_key="tensor")
    preprocessor = Preprocessor(settings, store)
    request = TextRequest(text_input=[b"a"])
    process(preprocessor, request)
    Drain(store.directory, 100.0, 20.0)
    time.sleep(LOOK_S)
    with pytest.raises(StoppingError, match="takes no new requests"):
        process(preprocessor, request)
    assert len([*store.directory.glob("running-*")]) == 1
