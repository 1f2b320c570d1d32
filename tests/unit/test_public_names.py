"""The package exports these names and no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import trt_tokenizers

PUBLIC = {
    "Answer", "ByteStreamDecoder", "ChatTemplate", "Chunk", "Emit", "Engine", "EngineError",
    "FinishReason", "GenerationRequest", "LaunchError", "Pipeline", "RepositoryError",
    "RequestError", "SegmentedTokenizer", "ServerNotFoundError", "SettingsError", "StoppingError",
    "StreamDecoder", "TemplateError", "Tokenizer", "TokenizerError", "TokenizerSettings",
    "TrtTokenizersError", "WindowStreamDecoder", "generate", "stream",
}  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert set(trt_tokenizers.__all__) == PUBLIC | {"__version__"}
    for name in PUBLIC:
        assert getattr(trt_tokenizers, name).__name__.endswith(name) or name == "Emit"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'trt_tokenizers' has no attribute 'Tokeniser'"):
        _ = trt_tokenizers.Tokeniser


def test_type_checkers_see_the_same_names(tmp_path: Path) -> None:
    """The names for type checkers are a separate list."""
    user = tmp_path / "user.py"
    user.write_text(f"from trt_tokenizers import {', '.join(sorted(PUBLIC))}\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), "--follow-imports=silent",
         "--ignore-missing-imports", str(user)],
        capture_output=True, text=True, check=False,
        cwd=Path(trt_tokenizers.__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", ["numpy", "jinja2", "tokenizers", "click"])
def test_importing_the_package_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, trt_tokenizers; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
