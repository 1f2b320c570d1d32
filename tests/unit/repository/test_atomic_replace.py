"""Folders replace others atomically, also if the kernel cannot exchange two names."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.atomic_replace import copy_tree, put_in_place, staging


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "file").write_text("old")
    return folder


def renameat2_fails_with(monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    def fails(*_: Any) -> int:
        ctypes.set_errno(number or 0)
        return -1

    library = SimpleNamespace() if number is None else SimpleNamespace(renameat2=fails)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)


@pytest.mark.parametrize("number", [0, None, errno.EINVAL, errno.ENOSYS])
def test_exchanged(place: Path, number: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if number != 0:
        renameat2_fails_with(monkeypatch, number)
    with staging(place) as new:
        (new / "file").write_text("new")
        put_in_place(new, place)
        assert (new / "file").read_text() == "old"
    assert (place / "file").read_text() == "new"
    assert [p.name for p in place.parent.iterdir()] == ["place"]
    assert place.stat().st_mode & 0o777 == 0o755


def test_a_mount_point_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renameat2_fails_with(monkeypatch, errno.EBUSY)
    with (
        staging(place) as new,
        pytest.raises(RepositoryError, match=r"place cannot be replaced \(.*mount point.*\); work"),
    ):
        put_in_place(new, place)
    assert (place / "file").read_text() == "old"
    assert [p.name for p in place.parent.iterdir()] == ["place"]


def test_copies_share_large_files_and_keep_links(place: Path, tmp_path: Path) -> None:
    large = place / "rank0.engine"
    large.write_bytes(b"e" * (2 << 20))
    (place / "link").symlink_to("file")
    (tmp_path / "copy").mkdir()
    copy_tree(place, tmp_path / "copy")
    assert os.path.samefile(tmp_path / "copy/rank0.engine", large)  # noqa: PTH121
    assert not os.path.samefile(tmp_path / "copy/file", place / "file")  # noqa: PTH121
    assert (tmp_path / "copy/link").readlink() == Path("file")
