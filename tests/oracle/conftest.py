"""Real tokenizers, each with its reference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def references() -> Path:
    """The folders that scripts/reference_tokenizers.py fetches once into the user's cache."""
    script = Path(__file__).parents[2] / "scripts" / "reference_tokenizers.py"
    done = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE)
    return Path(done.stdout.decode().strip())
