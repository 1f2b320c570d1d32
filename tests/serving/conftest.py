"""One real server for all tests of a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from applicable import needs_engine
from harness import Server, generate, launched


@pytest.fixture(scope="session")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    needs_engine()
    folder = tmp_path_factory.mktemp("smollm2")
    repository = generate(folder / "repo", "--engine", "transformers", "--model", str(smollm2))
    with launched(repository, folder) as server:
        yield server
