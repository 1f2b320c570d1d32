"""Ending a follower's server: not before it handles the signal."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from trt_tokenizers.streams.process_stat import handles

#: A server that starts a model's process, and handles SIGTERM only after it has "loaded".
SERVER = """
    import os, signal, subprocess, sys, time
    model = subprocess.Popen([sys.executable, "-c", {model!r}], stdin=subprocess.PIPE)
    time.sleep({loading})
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    open({loaded!r}, "w").close()
    time.sleep(20)
"""
MODEL = """
    import sys
    from trt_tokenizers.engines.termination import end_server_once_loaded
    end_server_once_loaded()
    sys.stdin.read()
"""


def test_a_server_is_ended_when_it_handles_the_signal(tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"
    code = textwrap.dedent(SERVER).format(
        model=textwrap.dedent(MODEL), loading=1.5, loaded=str(loaded)
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=15)
    assert done.returncode == 0, "-15 would mean that the signal came before the handler"
    assert loaded.exists()


def test_handles() -> None:
    code = "import signal, time; signal.signal(15, print); print(flush=True); time.sleep(20)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            assert handles(process.pid, signal.SIGTERM)
            assert not handles(process.pid, signal.SIGUSR1)
        finally:
            process.kill()
    assert not handles(process.pid, signal.SIGTERM)
