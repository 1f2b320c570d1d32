"""One real server for all tests of a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Server, generate, launched, with_double


@pytest.fixture(scope="session", params=["transformers", "llmapi"])
def server(
    request: pytest.FixtureRequest, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Of each engine; that of TensorRT-LLM 1.x runs on its double."""
    folder = tmp_path_factory.mktemp("smollm2")
    repository = generate(folder / "repo", "--engine", request.param, "--model", str(smollm2))
    if request.param == "llmapi":
        with_double(repository)
    # A test leaves a context behind, which nobody takes and a longer stop would wait for.
    with launched(repository, folder, "--drain-timeout", "1") as server:
        yield server
