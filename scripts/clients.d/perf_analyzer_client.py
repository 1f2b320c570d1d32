"""NVIDIA's perf_analyzer: gRPC streams of a decoupled ensemble, HTTP and gRPC infer otherwise.

Its binary is in tritonclient's wheels. PyPI's own perf-analyzer is an empty placeholder.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from report import Report, run

BIN = Path(sys.executable).parent
# The binary links to libcudart, also where there is no GPU.
CUDA = next(BIN.parent.glob("lib/python*/site-packages/nvidia/cuda_runtime/lib"))
LIBRARIES = f"{CUDA}:{os.environ.get('LD_LIBRARY_PATH', '')}"


def measure(report: Report, protocol: str) -> str:
    """Run perf_analyzer for four requests and give the expected text if it measured some."""
    streams = ["--streaming"] if report.decoupled else []
    address = report.http if protocol == "http" else report.grpc
    row = {"text_input": [report.prompt], "max_tokens": [8], "stream": [report.decoupled]}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as data:
        json.dump({"data": [row]}, data)
        data.flush()
        done = subprocess.run(
            [BIN / "perf_analyzer", "-m", "ensemble", "-i", protocol, "-u", address, *streams,
             "--input-data", data.name, "--request-count", "4", "--concurrency-range", "1"],
            check=False, capture_output=True, text=True,
            env={**os.environ, "LD_LIBRARY_PATH": LIBRARIES},
        )  # fmt: skip
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode or not any("throughput" in line for line in said):
        errors = [line for line in said if "rror" in line or "ailed" in line]
        raise RuntimeError(" / ".join(errors or said[-2:]))
    return report.expected


def program(report: Report) -> None:
    protocols = ["grpc"] if report.decoupled else ["http", "grpc"]
    for protocol in protocols:
        kind = "gRPC stream" if report.decoupled else f"{protocol} infer"
        report.ask(f"measure, {kind}", lambda protocol=protocol: measure(report, protocol))


run(program, "tritonclient")
