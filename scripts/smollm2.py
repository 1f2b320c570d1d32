"""Prints the folder of SmolLM2-135M-Instruct: `trt-tokenizers demo-model` for scripts and tests.

python scripts/smollm2.py
"""

from __future__ import annotations

import sys

from trt_tokenizers.repository.demo_model import demo_model


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.stdout.write(f"{demo_model(say)}\n")
