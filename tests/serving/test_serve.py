"""`trt-tokenizers serve demo`, as a new user runs it."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from applicable import needs_engine
from harness import descendants, in_shm, shm_names
from trt_tokenizers.streams.process_stat import is_running

pytestmark = [pytest.mark.triton, pytest.mark.model]


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_printed_lines_work_and_an_interrupt_ends_it(smollm2: Path, tmp_path: Path) -> None:
    needs_engine()
    log = tmp_path / "log"
    command = [str(Path(sys.executable).with_name("trt-tokenizers")), "serve", "demo"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 180
        while "Ctrl-C stops the server" not in log.read_text():
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.1)
        started, ours = descendants(process.pid), shm_names(process.pid)
        (curl,) = re.findall("(?m)^curl .*", log.read_text())
        done = subprocess.run(shlex.split(curl), capture_output=True, check=True)
        message = json.loads(done.stdout)["choices"][0]["message"]
        assert message["content"] == "The capital of France is Paris."
        (page,) = re.findall(r"(?m)^Open (http://\S+/) ", log.read_text())
        assert status(page) == 200
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    assert code == 0, log.read_text()[-4000:]
    assert not [pid for pid in started if is_running(pid)]
    assert not in_shm(ours)
