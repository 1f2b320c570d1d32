"""NVIDIA's genai-perf, which runs perf_analyzer on gRPC streams."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from report import Report, run

BIN = Path(sys.executable).parent
CUDA = next(BIN.parent.glob("lib/python*/site-packages/nvidia/cuda_runtime/lib"))
LIBRARIES = f"{CUDA}:{os.environ.get('LD_LIBRARY_PATH', '')}"


def profile(report: Report) -> str:
    path = f"{BIN}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [BIN / "genai-perf", "profile", "-m", "ensemble", "--service-kind", "triton",
             "--backend", "tensorrtllm", "--streaming", "-u", report.grpc,
             "--tokenizer", report.model, "--num-prompts", "2",
             "--synthetic-input-tokens-mean", "16", "--output-tokens-mean", "8",
             "--concurrency", "1", "--measurement-interval", "2000", "--artifact-dir", folder],
            check=False, capture_output=True, text=True, cwd=folder,
            env={**os.environ, "LD_LIBRARY_PATH": LIBRARIES, "PATH": path},
        )  # fmt: skip
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode or "Output token throughput" not in done.stdout:
        errors = [line for line in said if "rror" in line or "ailed" in line]
        raise RuntimeError(" / ".join(errors or said[-2:]))
    return report.expected


def program(report: Report) -> None:
    report.ask("profile, gRPC stream", lambda: profile(report), timeout=180)


run(program, "genai-perf")
