"""Error messages of the engine transformers if its libraries are missing or too old."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from applicable import transformers_of_the_engine
from trt_tokenizers.engines.transformers.engine import TransformersEngine
from trt_tokenizers.errors import EngineError


@pytest.fixture
def model_dir(tmp_path: Path) -> str:
    """A model folder with the only file that is read before the libraries are imported."""
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


def test_an_old_transformers_that_is_installed(model_dir: str) -> None:
    if transformers_of_the_engine():
        pytest.skip("not applicable: the transformers that is installed is new enough")
    found = version("transformers")
    with pytest.raises(EngineError) as refused:
        TransformersEngine({"model_dir": model_dir})
    assert str(refused.value) == (
        "engine 'transformers' needs torch and the continuous batching of transformers 5.23: "
        f"transformers is {found}; with Python 3.11 or 3.12, pip install 'trt-tokenizers[engine]'"
    )


@pytest.mark.parametrize("old", ["4.57.6", "5.9.1", "5.0rc1"])
def test_an_old_transformers(model_dir: str, monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    # Patched by name, because save_pretrained may replace the module object.
    monkeypatch.setattr("transformers.__version__", old)
    with pytest.raises(EngineError, match=f"of transformers 5.23: transformers is {old}; with"):
        TransformersEngine({"model_dir": model_dir})


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_a_missing_dependency(
    model_dir: str, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    if missing == "torch" and not transformers_of_the_engine():
        pytest.skip("not applicable: transformers is too old, and says so first")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EngineError, match=f"{missing} halted.* pip install 'trt-tokenizers"):
        TransformersEngine({"model_dir": model_dir})


def test_importing_the_engine_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, trt_tokenizers.engines.transformers.engine\n"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
