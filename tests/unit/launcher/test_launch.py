"""What launch_server and serve share: the place of the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_tokenizers.errors import LaunchError
from trt_tokenizers.launcher.launch import last_log


def test_the_last_log_replaces_an_older_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    log = last_log("server-8000")
    assert log.parent.stat().st_mode & 0o777 == 0o700
    log.write_text("of the last launch")
    assert last_log("server-8000") == log
    assert not log.exists()


def test_a_state_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with pytest.raises(LaunchError, match=r"server-1\.log cannot be written: .*; set XDG"):
        last_log("server-1")
