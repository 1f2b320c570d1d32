"""Real launches of a fake tritonserver: each process is stopped or killed, and nothing is left."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import socket
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from launching import Start, killed_by_a_second_signal, starting, until


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with starting(tmp_path) as start:
        yield start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_requested_stop_exits_0(start: Start, number: signal.Signals) -> None:
    launch = start("--world_size", "1", "--", "--log-format=ISO8601").until_ready()
    argv = launch.state()["argv"]
    assert isinstance(argv, list)
    assert argv[-1] == "--log-format=ISO8601", "it reaches the server"
    addresses = json.loads(launch.ready.read_text())
    assert addresses["models"] == ["one", "two"]
    assert addresses["pid"] == launch.process.pid
    launch.process.send_signal(number)
    assert launch.ended() == 0
    said = launch.said()
    assert said.count("launch: ready") == 1
    assert f"launch:   HTTP     {addresses['http']}/v2/models/MODEL/generate" in said
    assert [line.split(" (")[0] for line in said if "model " in line] == [
        "launch: model one is ready",  # by the log
        "launch: model two is ready",  # by the repository index
    ]
    assert launch.out() == "standard output of the server\n"
    assert f"signals: [{signal.SIGTERM.value}]" in launch.err()


def test_systemd_gets_ready_and_stopping(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        launch = start()
        received = [b""]
        while not received[-1].startswith(b"READY=1\nSTATUS=serving at http://127.0.0.1:"):
            received.append(manager.recv(4096))
        assert any(line.startswith(b"STATUS=model one is ready") for line in received)
        launch.until_ready().process.terminate()
        while received[-1] != b"STOPPING=1":
            received.append(manager.recv(4096))
        assert launch.ended() == 0


def test_ctrl_c_in_a_terminal_reaches_the_server_once(start: Start) -> None:
    keyboard, terminal = pty.openpty()
    launch = start(
        stdin=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ).until_ready()
    os.write(keyboard, b"\x03")
    assert launch.ended() == 0
    os.close(keyboard)
    os.close(terminal)
    assert f"signals: [{signal.SIGTERM.value}]" in launch.err()


def test_a_second_signal_ends_at_once(start: Start) -> None:
    last = killed_by_a_second_signal(start)
    assert last == "error: tritonserver was killed on a second signal (SIGTERM)"


def test_a_stop_while_loading(start: Start) -> None:
    launch = start(FAKE_LOAD="60")
    until(lambda: "model one is ready" in launch.err())
    launch.process.terminate()
    assert launch.ended() == 0
    assert "launch: ready" not in launch.said()


def test_a_killed_launcher_leaves_nothing(start: Start) -> None:
    launch = start().until_ready()
    launch.process.kill()
    launch.ended()


def test_the_exit_code_of_a_killed_server(start: Start) -> None:
    launch = start().until_ready()
    os.kill(launch.server(), signal.SIGKILL)
    assert launch.ended() == 128 + signal.SIGKILL
    assert launch.said()[-1] == "error: tritonserver ended by itself (SIGKILL)"


def test_a_killed_stub_ends_the_launch(start: Start) -> None:
    launch = start().until_ready()
    os.kill(launch.stub(), signal.SIGKILL)
    assert launch.ended() == 1
    # The model of a stub that dies within 0.25 s is unknown.
    assert re.fullmatch(
        "error: the Python process of (model 'one'|a Python model) died "
        r"\(SIGKILL; the kernel sends it when memory runs out\)",
        launch.said()[-1],
    )


def test_a_killed_agent_ends_the_launch(start: Start) -> None:
    launch = start().until_ready()
    os.kill(launch.agent(), signal.SIGKILL)
    assert launch.ended() == 128 + signal.SIGKILL
    assert launch.said()[-1] == "error: the rank agent ended by itself (SIGKILL)"


def test_a_model_that_fails_is_named(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("kept\n")
    launch = start("--log-file", str(log), FAKE_FAIL="0")
    assert launch.ended() == 1
    said = launch.said()
    assert said[-1] == (
        "error: tritonserver ended before it was ready (exit code 1): "
        "model 'two': ValueError: no tokenizer"
    )
    assert "launch: the last lines of rank 0:" in said
    # The server writes to two pipes, so the order of its last lines is undefined.
    assert "launch:   error: creating server: Internal - failed to load all models" in said
    assert launch.out() == ""
    assert log.read_text().startswith("kept\n")


class Terminal:
    """A terminal of 80 columns, and what it has shown."""

    def __init__(self) -> None:
        self._reader, self.device = pty.openpty()
        os.set_blocking(self._reader, False)
        self._shown = b""

    def shown(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._reader, 65536):
                self._shown += piece
        return self._shown.decode().replace("\r\n", "\n")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Terminal:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def on(terminal: Terminal) -> dict[str, int]:
    return {"stdout": terminal.device, "stderr": terminal.device}


def test_a_terminal_shows_the_progress_and_a_file_the_log(
    start: Start, terminal: Terminal, tmp_path: Path
) -> None:
    launch = start(FAKE_LOAD="2", **on(terminal)).until_ready()
    launch.process.terminate()
    assert launch.ended() == 0
    (log,) = (tmp_path / "state" / "trt-tokenizers").iterdir()
    *lines, _ = [line.rpartition("\033[K")[2] for line in terminal.shown().split("\n")]
    lines = [line for line in lines if "HTTP streams may lose" not in line]  # needs privileges
    assert [re.sub(r"[\d.]+ s\b|127\S+|http\S+", "…", line) for line in lines] == [
        f"launch: the server's log is {log}",
        "launch: model one is ready (…)",
        "launch: model two is ready (…)",
        "launch: ready",
        "launch:   HTTP     …",
        "launch:   gRPC     …",
        "launch:   metrics  …",
        "launch: SIGTERM: stopping, … for running requests; a second signal ends at once",
    ]
    assert "\033[Klaunch: loading two, 1 s" in terminal.shown()
    assert "standard output of the server\n" in log.read_text()
    assert "CudaDriverHelper" in log.read_text()


def test_a_failed_start_shows_the_lines_that_explain_it_and_the_log(
    start: Start, terminal: Terminal
) -> None:
    launch = start(FAKE_FAIL="0", **on(terminal))
    assert launch.ended() == 1
    shown = terminal.shown()
    assert "CudaDriverHelper" not in shown
    assert "loading: one" not in shown
    assert "launch:   At:\nlaunch:     model.py(3): initialize\n" in shown
    log = re.search("the server's log is (.+)\n", shown)
    assert log is not None
    assert shown.splitlines()[-2:] == [
        f"launch: the whole log is in {log[1]}",
        "error: tritonserver ended before it was ready (exit code 1): "
        "model 'two': ValueError: no tokenizer",
    ]


def test_verbose_shows_the_log_on_a_terminal(
    start: Start, terminal: Terminal, tmp_path: Path
) -> None:
    launch = start("--verbose", **on(terminal)).until_ready()
    launch.process.terminate()
    assert launch.ended() == 0
    assert "CudaDriverHelper" in terminal.shown()
    assert "loading two" not in terminal.shown()
    assert not (tmp_path / "state").exists()


def test_a_failure_without_a_dead_rank_shows_the_end_of_the_log(
    start: Start, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.write_text("error of the last launch\n")
    launch = start("--ready-timeout", "2", "--log-file", str(log), FAKE_LOAD="60")
    assert launch.ended() == 1
    assert launch.said()[-4:] == [
        "launch: the last lines of the log:",
        "launch:   standard output of the server",
        f"launch: the whole log is in {log}",
        "error: not ready within --ready-timeout 2 s; ready so far: one",
    ]


def test_ready_timeout(start: Start) -> None:
    launch = start("--ready-timeout", "2", FAKE_LOAD="60")
    launch.process.wait(timeout=10)
    assert launch.ended() == 1
    assert launch.said()[-1] == ("error: not ready within --ready-timeout 2 s; ready so far: one")


def test_an_invalid_program(start: Start, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("this is no program")
    broken.chmod(0o755)
    launch = start("--triton-server", str(broken))
    assert launch.process.wait(timeout=10) == 126
    assert launch.said() == [f"error: {broken} cannot be run: Exec format error"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--ready-file", "its folder does not exist; create it first"),
        ("--log-file", "No such file or directory"),
    ],
)
def test_files_that_cannot_be_written(
    start: Start, tmp_path: Path, option: str, message: str
) -> None:
    launch = start(option, str(tmp_path / "nowhere" / "file"))
    assert launch.process.wait(timeout=10) == 1
    assert launch.said() == [f"error: {option} {tmp_path}/nowhere/file: {message}"]


def test_a_log_file_that_is_a_pipe_without_a_reader(start: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    launch = start("--log-file", str(tmp_path / "pipe"))
    assert launch.process.wait(timeout=10) == 1
    assert launch.said() == [f"error: --log-file {tmp_path}/pipe: No such device or address"]


def test_a_closed_standard_output_is_not_replaced_by_another_file(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's output must not end in the lock file."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    launch = start(preexec_fn=lambda: os.close(1)).until_ready()
    (lock,) = (tmp_path / "trt-tokenizers").glob("*.lock")
    assert re.fullmatch(rf"{launch.process.pid} trt-launch-\w+-", lock.read_text())
    launch.process.terminate()
    assert launch.ended() == 0


def test_a_server_that_loses_a_stub_while_it_loads_is_started_once_more(
    start: Start, tmp_path: Path
) -> None:
    launch = start(FAKE_ABORTS=str(tmp_path / "aborts")).until_ready()
    (line,) = [line for line in launch.said() if "once more" in line]
    assert line.startswith("launch: tritonserver ended before it was ready (SIGABRT): boost::")
    launch.process.terminate()
    assert launch.ended() == 0


def test_a_server_that_always_loses_a_stub_is_started_twice(start: Start, tmp_path: Path) -> None:
    launch = start(FAKE_ABORTS=str(tmp_path / "aborts"), FAKE_ABORT_COUNT="9")
    launch.process.wait(timeout=20)
    assert launch.ended() == 134
    assert (tmp_path / "aborts").read_text() == "xx"
