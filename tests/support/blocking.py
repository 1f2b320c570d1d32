"""A model.py that behaves like an engine over several ranks, for tests of the launcher.

Rank 0 answers. On every other rank initialize() blocks until the engine of rank 0 has ended; then
the model ends its own tritonserver.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

NAMES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
RANK = next((int(os.environ[name]) for name in NAMES if name in os.environ), 0)


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"])
        self.ended = folder / "rank-0-has-ended"
        (folder / f"rank-{RANK}").write_text(
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        )
        if RANK:
            while not self.ended.exists():
                time.sleep(0.02)
            threading.Timer(0.1, os.kill, (os.getppid(), signal.SIGTERM)).start()

    def execute(self, requests: list[Any]) -> list[Any]:
        (self.ended.parent / "executing").touch()
        seconds = [pb_utils.get_input_tensor_by_name(r, "SECONDS") for r in requests]
        time.sleep(max(float(tensor.as_numpy().max()) for tensor in seconds))
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("SLEPT", tensor.as_numpy())])
            for tensor in seconds
        ]

    def finalize(self) -> None:
        self.ended.touch()
