"""Real tokenizers, each with its reference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def references(smollm2: Path) -> Path:
    """Folders that scripts/reference_tokenizers.py fetches once; SmolLM2 is there as well."""
    script = Path(__file__).parents[2] / "scripts" / "reference_tokenizers.py"
    done = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE)
    return Path(done.stdout.decode().strip())
