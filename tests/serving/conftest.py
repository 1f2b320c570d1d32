"""One real server for all tests of a configuration."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Server, generate, launched

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, fetched and converted once into the user's cache."""
    script = ROOT / "scripts" / "smollm2.py"
    done = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE)
    return Path(done.stdout.decode().strip())


@pytest.fixture(scope="session")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("smollm2")
    repository = generate(folder / "repo", "--engine", "transformers", "--model", str(smollm2))
    with launched(repository, folder) as server:
        yield server
