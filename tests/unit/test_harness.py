"""The tests' own harness counts what it claims to count."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from harness import Server
from trt_tokenizers.streams.context_store import ContextStore, RequestContext
from trt_tokenizers.streams.stream_folder import stream_folder

#: A launcher with one child; `Server.contexts` takes the child for the server.
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
SERVER = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.fixture
def server() -> Iterator[tuple[Server, Path]]:
    """A server without Triton, and its stream folder."""
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, SERVER], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        folder = stream_folder(pid)
        yield Server(process, "", "", "", cast(Path, None)), folder
        subprocess.run(["kill", "-9", str(pid)], check=True)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_context_that_was_left_is_counted(server: tuple[Server, Path]) -> None:
    running, folder = server
    assert running.contexts() == 0
    store = ContextStore(folder)
    assert running.contexts() == 0
    waiting, taken = store.put(RequestContext(1)), store.put(RequestContext(1))
    store.take(taken)
    assert running.contexts() == 2
    store.discard(waiting)
    assert running.contexts() == 1, "a stream that was taken and not released"
    store.release(taken)
    assert running.contexts() == 0
