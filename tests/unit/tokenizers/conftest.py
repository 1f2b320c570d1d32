"""transformers, the reference of these tests, has to read .model files."""

from __future__ import annotations

import pytest

from trt_tokenizers.tokenizers.transformers import use_bundled_protobuf


@pytest.fixture(autouse=True, scope="session")
def _protobuf() -> None:
    use_bundled_protobuf()
