"""Enlarging the socket buffers of another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trt_tokenizers.launcher.socket_buffers import widen

# Prints how many commands of 24 bytes fit into a socket pair, after a line on its input.
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
    warning = widen(child.pid)
    held = _held(child)
    if warning is None:
        assert held > 5000
    else:  # without CAP_NET_ADMIN the kernel's own limit holds
        assert int(Path("/proc/sys/net/core/wmem_default").read_text()) < 4 << 20
        assert "sysctl -w net.core.wmem_default" in warning


def test_a_pair_with_default_buffers_takes_few(child: subprocess.Popen[str]) -> None:
    """The problem that `widen` solves; a machine with larger default buffers does not have it."""
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
