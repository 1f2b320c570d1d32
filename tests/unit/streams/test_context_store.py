"""Contexts of streams, from the process that makes them to the one that needs them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_tokenizers.errors import SettingsError
from trt_tokenizers.streams import slots, smalltexts
from trt_tokenizers.streams.context_store import LOOK_S, ContextStore, RequestContext
from trt_tokenizers.streams.smalltexts import LINK_BYTES
from trt_tokenizers.streams.stream_key import key_of_request_id

LONG = RequestContext(1, echo="x" * slots.ROOM)
#: Kept in a slot, as a link, as a file.
FORMS = {"slot": RequestContext(1), "link": LONG, "file": RequestContext(1, echo="x" * LINK_BYTES)}
FORM = pytest.mark.parametrize("form", FORMS)


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "streams")


def names(store: ContextStore) -> list[str]:
    """What is kept by name."""
    kept = (path.name for path in store.directory.iterdir())
    return [name for name in kept if not name.startswith(("user-", "slots-"))]


@FORM
def test_contexts_are_private_swept_and_gone(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "streams"
    store = ContextStore(folder, max_age_s=0.2)
    context = FORMS[form]
    key = store.put(context)
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.is_symlink() or path.stat().st_mode & 0o777 == 0o600, path
    assert store.has(key)
    assert store.take(key) == context
    assert not store.has(key)
    assert store.take(key) is None, "once"
    store.put(context)
    store.sweep(time.monotonic())
    assert len(store) == 1
    time.sleep(0.25)
    store.sweep(time.monotonic())
    assert len(store) == 0
    assert names(store) == []
    store.discard(key)
    store.close()
    assert not folder.exists()
    again = store.put(context)
    assert ContextStore(folder).take(again) == context, "the folder comes back when it is needed"


def test_a_context_of_any_size_is_taken_as_it_was_put(store: ContextStore) -> None:
    """Most fit into a slot or a link; the prompt that is to stand before the answer may not."""
    # Whatever stands around it, one of these is the first too long for a slot, one for a link.
    ends = range(LINK_BYTES // 2 - 120, LINK_BYTES // 2 + 2)
    for length in (*range(slots.ROOM + 2), *ends, 1 << 20):
        context = RequestContext(1, echo="x" * length)
        key = store.put(context)
        assert store.has(key)
        assert store.take(key) == context
        assert store.take(key) is None, "once"
        store.touch(key)
        store.release(key)
    assert names(store) == []
    assert [*slots.found(store.directory)] == []


INTS = st.integers(-(2**31), 2**32)
IDS = st.lists(INTS, max_size=4).map(tuple)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


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
def test_a_record_says_all_of_a_context(context: RequestContext) -> None:
    assert RequestContext.from_record(context.to_record()) == context


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_request_id_is_never_taken_for_a_key_with_a_place(request_id: str) -> None:
    key = key_of_request_id(request_id)
    assert key is not None
    assert 0 <= key < slots.PLACED


@pytest.mark.parametrize("form", ["link", "file"])
@pytest.mark.parametrize("found", [b"[", b"[]", b"\xff", b"1", b"0102"])
def test_a_named_context_that_cannot_be_read_is_none(
    store: ContextStore, form: str, found: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.directory / "7.0"
    if form == "link":
        path.symlink_to(os.fsdecode(found))
    else:
        path.write_bytes(found)
    assert store.take(7) is None
    assert "the context of stream 7 cannot be read" in caplog.text


@pytest.mark.parametrize("record", [b"", b"[", RequestContext(1).to_record()[:-1]])
def test_a_slot_that_cannot_be_read_is_none(
    store: ContextStore, record: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    key = slots.Slots(store.directory).put(record)
    assert key is not None
    assert store.take(key) is None
    assert f"the context of stream {key} cannot be read" in caplog.text


@pytest.mark.parametrize("before", [0, 5000])
@pytest.mark.parametrize("after", [0, 5000])
def test_a_request_id_used_again_has_the_newer_context(
    store: ContextStore, before: int, after: int
) -> None:
    store.put_under(7, [RequestContext(1, echo="a" * before)])
    newer = RequestContext(2, echo="b" * after)
    store.put_under(7, [newer])
    assert len(store) == 1
    assert store.take(7) == newer


@FORM
def test_the_rows_of_a_request_share_a_key(store: ContextStore, form: str) -> None:
    rows = [FORMS[form]._replace(num_input_tokens=number) for number in range(3)]
    key = store.put(*rows)
    assert len(store) == 3
    assert [store.take(key, row) for row in (2, 0, 1)] == [rows[2], rows[0], rows[1]]
    for row in range(3):
        store.release(key, row)
    assert names(store) == []
    assert [*slots.found(store.directory)] == []


@FORM
def test_what_others_hold_is_found_and_removed(store: ContextStore, form: str) -> None:
    """Three processes of a server: one puts, one takes, an engine discards."""
    taking, engine = ContextStore(store.directory), ContextStore(store.directory)
    taken, discarded = store.put(FORMS[form]), store.put(FORMS[form])
    assert taking.take(taken) == FORMS[form]
    engine.discard(taken)  # it is postprocessing's already
    engine.discard(discarded)
    assert not store.has(discarded)
    found = [*slots.found(store.directory), *smalltexts.found(store.directory)]
    assert [waits for waits, _ in found] == [False]
    taking.release(taken)
    engine.release(discarded)
    assert [*slots.found(store.directory), *smalltexts.found(store.directory)] == []


@FORM
def test_a_slot_that_is_used_again_is_no_old_streams(store: ContextStore, form: str) -> None:
    old = store.put(FORMS[form])
    store.take(old)
    store.release(old)
    new = store.put(FORMS[form])
    store.touch(old)
    store.discard(old)
    assert not store.has(old)
    assert store.take(old) is None
    assert store.take(new) == FORMS[form]
    store.release(old)
    assert len([*slots.found(store.directory), *smalltexts.found(store.directory)]) == 1


@FORM
def test_the_last_model_to_leave_removes_the_folder(tmp_path: Path, form: str) -> None:
    first, second = ContextStore(tmp_path / "s"), ContextStore(tmp_path / "s")
    key = first.put(FORMS[form])
    first.close()
    assert second.take(key) is not None, "reloading a model must not wipe the streams of others"
    second.close()
    assert not (tmp_path / "s").exists()


def test_a_model_that_is_loaded_again_and_again_leaves_no_tables(tmp_path: Path) -> None:
    stays = ContextStore(tmp_path / "s")
    for _ in range(3):
        comes = ContextStore(tmp_path / "s")
        key = comes.put(RequestContext(1))
        assert stays.take(key) == RequestContext(1), "also where the table is another one by now"
        stays.release(key)
        comes.close()
        assert [*(tmp_path / "s").glob("slots-*")] == []


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o777)
    (tmp_path / "s").chmod(0o777)
    with pytest.raises(SettingsError, match="open to others; remove it"):
        ContextStore(tmp_path / "s")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(SettingsError):
        ContextStore(tmp_path / "link")


def test_what_is_left_of_a_model_that_is_gone_is_removed(tmp_path: Path) -> None:
    stays = ContextStore(tmp_path / "s")
    command = [sys.executable, "-c", WRITER.replace("3000", "1"), str(tmp_path / "s"), "0"]
    for _ in range(3):
        killed = subprocess.run(command, stdout=subprocess.PIPE, check=True, input=b"")
        key = int(killed.stdout)
        assert stays.has(key), "what it put waits"
        stays.put(RequestContext(1))
        assert stays.has(key)
        stays.take(key)
        stays.release(key)
    stays.sweep(time.monotonic() + 3600)
    assert len([*(tmp_path / "s").glob("slots-*")]) == 1


@FORM
def test_two_models_notice_an_emptied_folder_one_after_the_other(
    store: ContextStore, form: str
) -> None:
    """The second finds the table of the first in the place of its own."""
    late, taking = ContextStore(store.directory), ContextStore(store.directory)
    for each in (store, late):
        taking.release(each.put(FORMS[form]))
    shutil.rmtree(store.directory)
    for each in (store, late):
        each.draining(time.monotonic() + LOOK_S)
        assert taking.take(each.put(FORMS[form])) == FORMS[form]
    waiting = store.put(FORMS[form])
    late.close()
    assert ContextStore(store.directory).take(waiting) == FORMS[form]


@FORM
def test_an_emptied_folder_is_made_again(store: ContextStore, form: str) -> None:
    store.put(FORMS[form])
    shutil.rmtree(store.directory)
    store.draining(time.monotonic() + LOOK_S)
    key = store.put(FORMS[form])
    assert ContextStore(store.directory).take(key) == FORMS[form]


def test_what_has_no_slot_is_kept_by_name(
    store: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More contexts wait than slots are there: each is taken, none is mixed up."""
    monkeypatch.setattr(slots, "_MOST_TABLES", 2)
    keys = [store.put(RequestContext(number)) for number in range(2100)]
    assert len(names(store)) == 2100 - 2048
    assert len(set(keys)) == len(store) == 2100
    assert all(0 <= key < 2**53 for key in keys)
    other = ContextStore(store.directory)
    for number, key in enumerate(keys):
        assert other.take(key) == RequestContext(number)
        other.release(key)
    assert other.take(store.put(RequestContext(1))) == RequestContext(1)
    assert names(store) == []


def test_full_memory_is_no_end(
    store: ContextStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is missing when a mapped page is written to would end the process (SIGBUS)."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for number in range(3):
        key = store.put(RequestContext(number))
        assert [*store.directory.glob("slots-*")] == []
        assert store.take(key) == RequestContext(number)
    assert caplog.text.count("no space left") == 1, "nor is it asked for again at once"


def test_rows_that_do_not_fit_leave_nothing(
    store: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, left = store._texts.put, iter(range(2))

    def full(key: int, row: int, text: str) -> bool:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "no space left")
        return put(key, row, text)

    monkeypatch.setattr(store._texts, "put", full)
    with pytest.raises(OSError, match="no space left"):
        store.put(*[RequestContext(1)] * 4)
    assert len(store) == 0
    left = iter(range(2))
    with pytest.raises(OSError, match="no space left"):
        store.put_each([LONG] * 3)
    assert len(store) == 0


def test_contexts_by_name_are_bounded(store: ContextStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smalltexts, "_MOST", 3)
    monkeypatch.setattr("trt_tokenizers.streams.context_store._MANY", 5)
    keys = []
    for number in range(10):
        keys.append(store.put(LONG._replace(num_input_tokens=number)))
        # The clock of files ticks every few milliseconds only.
        os.utime(
            store.directory / f"{keys[-1]}.0",
            (number, time.time() - 60 + number),
            follow_symlinks=False,
        )
        store.sweep(time.monotonic())
    assert len(store) == 3
    assert [store.take(key) is not None for key in keys] == [False] * 7 + [True] * 3


WRITER = """
import sys
from pathlib import Path
from trt_tokenizers.streams.context_store import ContextStore, RequestContext
store, name = ContextStore(Path(sys.argv[1])), int(sys.argv[2])
for number in range(3000):
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
    for number in range(3000):
        for name, writer in enumerate(writers):
            assert writer.stdout is not None
            key = int(writer.stdout.readline())
            assert store.take(key) == RequestContext(number, stop_strings=(f"writer {name}",))
            store.release(key)
            keys.add(key)
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert len(keys) == 9000
    assert len(store) == 0
