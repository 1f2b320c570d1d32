"""One real server for all tests of a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Server, generate, launched

#: The double of TensorRT-LLM, as a server finds it.
FAKES = str(Path(__file__).parents[1] / "fakes")


@pytest.fixture(scope="session", params=["transformers", "llmapi"])
def server(
    request: pytest.FixtureRequest, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Of each engine; that of TensorRT-LLM 1.x runs on its double."""
    folder = tmp_path_factory.mktemp("smollm2")
    repository = generate(folder / "repo", "--engine", request.param, "--model", str(smollm2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", FAKES)
        with launched(repository, folder) as server:
            yield server
