"""The package exports these names and no others."""

from __future__ import annotations

import ast
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


def test_type_checkers_see_the_same_names() -> None:
    """The names for type checkers are a separate list; mypy checks that each of them exists."""
    tree = ast.parse(Path(trt_tokenizers.__file__).read_text())
    (block,) = (
        node for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )  # fmt: skip
    imported = [
        name for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names
    ]
    assert sorted(name.asname or name.name for name in imported) == sorted(PUBLIC)


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"numpy", "jinja2", "tokenizers", "click"}
    code = f"import sys, trt_tokenizers; print({heavy!r} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
