"""The fields of /proc/PID/stat."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from trt_tokenizers.streams.process_stat import is_running, read_stat


def test_a_process_whose_name_looks_like_other_fields(tmp_path: Path) -> None:
    program = shutil.copy(shutil.which("sleep") or "", tmp_path / "a) Z 1 (b")
    with subprocess.Popen([str(program), "60"]) as process:
        stat, own = read_stat(process.pid), read_stat(os.getpid())
        assert stat is not None
        assert own is not None
        assert (stat.parent, stat.zombie) == (os.getpid(), False)
        assert stat.started >= own.started > 0
        assert is_running(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        stat = read_stat(process.pid)
        assert stat is not None
        assert stat.zombie
        assert os.waitstatus_to_exitcode(stat.wait_status) == -signal.SIGKILL
        assert not is_running(process.pid)
    assert read_stat(process.pid) is None
    assert not is_running(process.pid)
