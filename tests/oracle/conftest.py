"""Real tokenizers, each with its reference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trt_tokenizers.tokenizers.transformers import use_bundled_protobuf


@pytest.fixture(autouse=True, scope="session")
def _protobuf() -> None:
    """transformers, a reference of these tests, has to read .model files."""
    use_bundled_protobuf()


@pytest.fixture(scope="session")
def references(smollm2: Path) -> Path:
    """The folders that scripts/reference_tokenizers.py downloads once; SmolLM2 is cached too."""
    script = Path(__file__).parents[2] / "scripts" / "reference_tokenizers.py"
    done = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE)
    return Path(done.stdout.decode().strip())
