"""Widening the socket pairs of another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trt_tokenizers.launcher.socket_buffers import widen

# Says how many commands of 24 bytes a socket pair takes, once it is told to.
_CHILD = """
import socket, sys
a, b = socket.socketpair()
a.setblocking(False)
print("made", flush=True)
sys.stdin.readline()
held = 0
try:
    while held < 100_000:
        held += a.send(b"x" * 24) // 24
except BlockingIOError:
    pass
print(held, flush=True)
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        yield process
        process.kill()


def _held(child: subprocess.Popen[str]) -> int:
    return int(child.communicate("\n", timeout=10)[0])


def test_a_widened_pair_takes_thousands(child: subprocess.Popen[str]) -> None:
    mend = widen(child.pid)
    held = _held(child)
    if mend is None:
        assert held > 5000
    else:  # without CAP_NET_ADMIN the kernel's own limit holds
        assert int(Path("/proc/sys/net/core/wmem_default").read_text()) < 4 << 20
        assert "sysctl -w net.core.wmem_default" in mend


def test_what_a_pair_takes_by_itself(child: subprocess.Popen[str]) -> None:
    """The reason for all this; a machine that is set up otherwise does not need it."""
    default = int(Path("/proc/sys/net/core/wmem_default").read_text())
    if default > 1 << 20:
        pytest.skip(f"net.core.wmem_default is {default} here already")
    assert _held(child) < 1000


def test_a_process_that_is_gone() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert "sysctl" in str(widen(ended.pid))


def test_no_descriptor_is_left_open(child: subprocess.Popen[str]) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    widen(child.pid)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
