"""The skeleton of a model repository: four models with ``${placeholders}``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.repository.placeholders import fill


def skeleton() -> Iterator[tuple[str, str]]:
    """Relative path and text of each file."""
    # In a wheel the skeleton is inside the package, in a checkout it is beside src/.
    inside = Path(str(files("trt_tokenizers"))) / "model_repo_skeleton"
    root = inside if inside.is_dir() else Path(__file__).parents[3] / "model_repo_skeleton"
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name in ("config.pbtxt", "model.py", ".gitkeep"):
            yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def skeleton_configs() -> dict[str, Any]:
    """Model -> its configuration as a protobuf with empty values; without the engine."""
    return {
        path.split("/")[0]: parse_config(fill(text, {}, path))
        for path, text in skeleton()
        if path.endswith(".pbtxt") and not path.startswith("tensorrt_llm/")
    }
