"""The store that hands contexts from preprocessing to postprocessing."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_tokenizers.errors import EngineError, RequestError, SettingsError
from trt_tokenizers.streams.context_store import LOOK_S, ContextStore, RequestContext
from trt_tokenizers.streams.stream_folder import open_streams
from trt_tokenizers.streams.stream_key import KEY_BITS, key_of_request_id

CONTEXT = RequestContext(1)


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "streams")


def is_waiting(store: ContextStore) -> list[bool]:
    """For each open stream: whether it waits for postprocessing."""
    return [stream.waits for stream in open_streams(store.directory)]


def test_contexts_are_private_and_stay_until_the_stream_ends(store: ContextStore) -> None:
    key = store.put(CONTEXT)
    assert store.directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in store.directory.iterdir()} == {0o600}
    assert store.has(key)
    assert store.take(key) == CONTEXT
    assert not store.has(key)
    assert store.take(key) == CONTEXT, "a further sequence of the row"
    assert is_waiting(store) == [False], "the stream runs until it is released"
    store.release(key)
    assert is_waiting(store) == []
    assert store.take(key) is None


def test_sweep_removes_old_contexts(tmp_path: Path) -> None:
    store = ContextStore(tmp_path / "streams", max_age_s=0.2)
    taken = store.put(CONTEXT)
    store.put(CONTEXT)
    store.take(taken)
    store.sweep(time.monotonic() + 0.1)
    assert sorted(is_waiting(store)) == [False, True]
    time.sleep(0.25)
    store.touch(taken)
    store.sweep(time.monotonic() + 0.2)
    assert is_waiting(store) == [False], "a running stream lives as long as it is touched"
    time.sleep(0.25)
    store.sweep(time.monotonic() + 0.4)
    assert is_waiting(store) == []


def test_sweep_removes_the_oldest_of_too_many(
    store: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trt_tokenizers.streams.context_store._MAX_CONTEXTS", 3)
    monkeypatch.setattr("trt_tokenizers.streams.context_store._SWEEP_CALLS", 5)
    keys = []
    for _ in range(10):
        keys.append(store.put(CONTEXT))
        time.sleep(0.01)  # a file's clock ticks every few milliseconds
        store.sweep(time.monotonic())
    assert [store.take(key) is not None for key in keys] == [False] * 7 + [True] * 3


@pytest.mark.parametrize("length", [0, 300, 5000, 1 << 16, (1 << 16) + 1, 1 << 22])
def test_a_context_of_any_size_comes_back_unchanged(store: ContextStore, length: int) -> None:
    context = RequestContext(1, echo="x" * length)
    key = store.put(context)
    assert store.take(key) == context
    store.release(key)
    assert is_waiting(store) == []


INTS = st.integers(-(2**31), 2**32)
IDS = st.lists(INTS, max_size=4).map(tuple)
TEXT = st.text(max_size=30)


@given(
    st.builds(
        RequestContext,
        num_input_tokens=INTS,
        end_ids=IDS,
        stop_strings=st.lists(TEXT, max_size=3).map(tuple),
        include_stop=st.booleans(),
        skip_special_tokens=st.booleans(),
        echo=TEXT,
        continues=st.booleans(),
        stream=st.booleans(),
        max_tokens=INTS,
        min_tokens=INTS,
        arrived=st.floats(0, 1e9),
        stop_ids=st.lists(IDS, max_size=3).map(tuple),
    )
)
def test_a_record_keeps_every_field(context: RequestContext) -> None:
    assert RequestContext.from_record(context.to_record()) == context


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_the_key_of_a_request_id_fits_into_a_json_number(request_id: str) -> None:
    key = key_of_request_id(request_id)
    assert key is not None
    assert 0 <= key < 1 << KEY_BITS == 2**53


@pytest.mark.parametrize("record", [b"", b"[", b"[]", b"\xff", b"1", b"{}"])
def test_a_broken_record_is_reported_and_removed(
    store: ContextStore, record: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    key = store.put(CONTEXT)
    (path,) = store.directory.glob("waiting-*")
    path.write_bytes(record)
    assert store.take(key) is None
    assert f"the context of stream {key} cannot be read" in caplog.text
    store.release(key)
    assert is_waiting(store) == []


def key_of(request_id: str) -> int:
    key = key_of_request_id(request_id)
    assert key is not None
    return key


def test_a_request_id_in_use_is_refused(
    store: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise both clients would get both texts."""
    in_use = r"the request id 'mine' is in use by a request that has not ended; send another id"
    store.put_under("mine", [CONTEXT])
    with pytest.raises(RequestError, match=in_use):
        store.put_under("mine", [RequestContext(2)])
    assert store.take(key_of("mine")) == CONTEXT
    with pytest.raises(RequestError, match=in_use):
        store.put_under("mine", [RequestContext(2)])
    assert not store.has(key_of("mine"))
    store.put_under("other", [CONTEXT])
    store.release(key_of("mine"))
    store.put_under("mine", [RequestContext(3)])
    assert store.take(key_of("mine")) == RequestContext(3)
    # The engine may not mark its last response.
    monkeypatch.setattr("trt_tokenizers.streams.context_store._SILENT_S", 0.1)
    time.sleep(0.15)
    store.put_under("mine", [RequestContext(4)])
    store.release(key_of("mine"))
    # The engine may have refused the request, or its client may be gone.
    with pytest.raises(RequestError, match=r"The id of a failed request is free after 30 s"):
        store.put_under("mine", [RequestContext(5)])
    monkeypatch.setattr("trt_tokenizers.streams.context_store._WAITING_S", 0.1)
    time.sleep(0.15)
    store.put_under("mine", [RequestContext(5)])
    assert store.take(key_of("mine")) == RequestContext(5)


def test_a_context_under_a_request_id_is_whole_at_any_time(store: ContextStore) -> None:
    """Postprocessing may look for a client's request id while preprocessing writes its context."""
    reader = [sys.executable, "-c", READER, str(store.directory), str(key_of("mine"))]
    with subprocess.Popen(reader, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stored, deadline = 0, time.monotonic() + 60
        while stored < 50 and time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(RequestError):  # the reader has not released the last one
                store.put_under("mine", [RequestContext(stored, echo="x" * (1 << 20))])
                stored += 1
        taken, _ = process.communicate()
    assert process.returncode == 0
    assert int(taken) >= 49


READER = """
import select, sys
from pathlib import Path
from trt_tokenizers.streams.context_store import ContextStore
store, taken, key = ContextStore(Path(sys.argv[1])), 0, int(sys.argv[2])
print(flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    if store.has(key):
        assert store.take(key) is not None
        store.release(key)
        taken += 1
print(taken)
"""


def test_a_context_that_an_engine_touches_lives_by_its_signs_of_life(store: ContextStore) -> None:
    """A client that calls preprocessing alone leaves a context; it must not delay a stop."""
    touched, alone = store.put_each([CONTEXT] * 2)
    time.sleep(0.2)
    store.touch(touched)
    silent = {stream.path.name: stream.silent_s > 0.15 for stream in open_streams(store.directory)}
    assert silent == {f"running-{touched}-0": False, f"running-{alone}-0": True}
    assert is_waiting(store) == [False, False]
    assert [store.take(key) for key in (touched, alone)] == [CONTEXT] * 2
    store.release(alone)
    assert store.take(alone) is None
    assert is_waiting(store) == [False]


def test_the_rows_of_a_request_share_a_key(store: ContextStore) -> None:
    rows = [RequestContext(number) for number in range(3)]
    key = store.put(*rows)
    assert is_waiting(store) == [True] * 3
    assert [store.take(key, row) for row in (2, 0, 1)] == [rows[2], rows[0], rows[1]]
    for row in range(3):
        store.release(key, row)
    assert is_waiting(store) == []


def test_three_processes_of_a_server_share_the_contexts(store: ContextStore) -> None:
    """One puts, one takes and releases, an engine discards."""
    taking, engine = ContextStore(store.directory), ContextStore(store.directory)
    taken, discarded = store.put(CONTEXT), store.put(CONTEXT)
    assert taking.take(taken) == CONTEXT
    engine.discard(taken)  # without effect: postprocessing has taken it
    engine.discard(discarded)
    assert not store.has(discarded)
    assert is_waiting(store) == [False]
    taking.release(taken)
    engine.release(discarded)
    assert is_waiting(store) == []


def test_the_last_model_that_closes_removes_the_folder(tmp_path: Path) -> None:
    first, second = ContextStore(tmp_path / "s"), ContextStore(tmp_path / "s")
    key = first.put(CONTEXT)
    first.close()
    assert second.take(key) == CONTEXT, "reloading a model must not remove others' streams"
    second.close()
    assert not (tmp_path / "s").exists()


def test_a_killed_process_leaves_its_contexts_but_not_the_folder(tmp_path: Path) -> None:
    stays = ContextStore(tmp_path / "s")
    command = [sys.executable, "-c", WRITER.replace("1000", "1"), str(tmp_path / "s"), "0"]
    killed = subprocess.run(command, stdout=subprocess.PIPE, check=True, input=b"")
    assert stays.take(int(killed.stdout)) == RequestContext(0, stop_strings=("writer 0",))
    assert len([*(tmp_path / "s").glob("user-*")]) == 2, "it did not close its store"
    stays.close()
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_not_private_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o777)
    (tmp_path / "s").chmod(0o777)
    with pytest.raises(SettingsError, match="is not private to this user; remove it"):
        ContextStore(tmp_path / "s")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(SettingsError):
        ContextStore(tmp_path / "link")


def test_a_removed_folder_is_made_again(store: ContextStore) -> None:
    taking = ContextStore(store.directory)
    shutil.rmtree(store.directory)
    assert taking.take(store.put(CONTEXT)) == CONTEXT
    shutil.rmtree(store.directory)
    store.put_under("mine", [CONTEXT])
    assert taking.take(key_of("mine")) == CONTEXT
    assert store.directory.stat().st_mode & 0o777 == 0o700


def test_nothing_is_left_if_tmpfs_is_full(
    store: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, writes = os.write, 0

    def full_after_two(descriptor: int, data: bytes) -> int:
        nonlocal writes
        writes += 1
        if writes == 3:
            return write(descriptor, data[:5])
        if writes > 3:
            raise OSError(errno.ENOSPC, "no space left")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full_after_two)
    for put in (
        lambda: store.put(*[CONTEXT] * 4),
        lambda: store.put_each([CONTEXT] * 4),
        lambda: store.put_under("mine", [CONTEXT] * 4),
    ):
        writes = 0
        with pytest.raises(EngineError, match=f"^{store.directory.parent} is full.* enlarge it"):
            put()
        assert writes == 4
        assert [path.name.split("-")[0] for path in store.directory.iterdir()] == ["user"]


def test_a_full_tmpfs_is_named_when_a_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(EngineError, match=f"^{tmp_path} is full: .* enlarge it"):
        ContextStore(tmp_path / "streams")


def test_draining_is_noticed_soon(store: ContextStore) -> None:
    assert not store.draining(100.0)
    (store.directory / "draining").touch()
    assert not store.draining(100.0 + LOOK_S / 2), "it looks every LOOK_S only"
    assert store.draining(100.0 + LOOK_S)


WRITER = """
import sys
from pathlib import Path
from trt_tokenizers.streams.context_store import ContextStore, RequestContext
store, name = ContextStore(Path(sys.argv[1])), int(sys.argv[2])
for number in range(1000):
    print(store.put(RequestContext(number, stop_strings=(f"writer {name}",))), flush=True)
sys.stdin.read()
"""


def test_processes_put_and_take_at_the_same_time(store: ContextStore) -> None:
    command = [sys.executable, "-c", WRITER, str(store.directory)]
    writers = [
        subprocess.Popen([*command, str(name)], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        for name in range(3)
    ]
    keys = set()
    for number in range(1000):
        for name, writer in enumerate(writers):
            assert writer.stdout is not None
            key = int(writer.stdout.readline())
            assert store.take(key) == RequestContext(number, stop_strings=(f"writer {name}",))
            store.release(key)
            keys.add(key)
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert len(keys) == 3000
    assert all(0 <= key < 2**53 for key in keys)
    assert is_waiting(store) == []
