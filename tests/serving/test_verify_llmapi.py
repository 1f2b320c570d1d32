"""scripts/verify_llmapi as a user runs it, on the test double of TensorRT-LLM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "verify_llmapi"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True, text=True, timeout=300, check=False, env=environ,
    )  # fmt: skip


def test_the_help_shows_an_example() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "scripts/verify_llmapi --llm-arg" in done.stdout


def test_without_tensorrt_llm_it_exits_with_2() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "TensorRT-LLM is not installed; run this in NVIDIA's container" in done.stderr


@pytest.mark.triton
@pytest.mark.model
def test_the_report_names_the_double_and_the_checks() -> None:
    done = run("--double", "--only", "test_whole_answer or (bad_input and top_p)")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "TensorRT-LLM: THE TEST DOUBLE" in done.stdout
    assert "passed  test_whole_answer[llmapi]" in done.stdout
    assert done.stdout.endswith("2 checks, 0 failed\n")
