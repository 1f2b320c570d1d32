"""Messages to systemd, and the ready file."""

from __future__ import annotations

import json
import secrets
import socket
from pathlib import Path

import pytest

from trt_tokenizers.launcher.notify import notify_systemd, write_ready_file


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_gets_the_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(5)
        notify_systemd("READY=1", "STATUS=serving")
        assert manager.recv(4096) == b"READY=1\nSTATUS=serving"


def test_a_missing_service_manager_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify_systemd("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify_systemd("READY=1")


def test_the_ready_file_is_written_atomically(tmp_path: Path) -> None:
    write_ready_file(tmp_path / "ready", {"pid": 1})
    assert json.loads((tmp_path / "ready").read_text()) == {"pid": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["ready"]
    with pytest.raises(OSError, match="No such file"):
        write_ready_file(tmp_path / "nowhere" / "ready", {})


def test_the_ready_file_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / ".ready.guessed").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_ready_file(tmp_path / "ready", {"pid": 1})
    assert victim.read_text() == "kept"
