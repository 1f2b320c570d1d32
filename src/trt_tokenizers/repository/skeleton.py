"""The model repository's skeleton: four models, with ``${placeholders}`` in their config.pbtxt."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.repository.placeholders import fill


def skeleton() -> Iterator[tuple[str, str]]:
    """Relative path and text of each of its files."""
    root = skeleton_dir()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name in ("config.pbtxt", "model.py", ".gitkeep"):
            yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def skeleton_configs() -> dict[str, Any]:
    """Its configurations as protobufs, by model, with every value left empty."""
    return {
        path.split("/")[0]: parse_config(fill(text, {}, path))
        for path, text in skeleton()
        if path.endswith(".pbtxt") and not path.startswith("tensorrt_llm/")
    }


def skeleton_dir() -> Path:
    """The skeleton: inside the installed wheel, or beside src/ in a checkout."""
    inside = Path(str(files("trt_tokenizers"))) / "model_repo_skeleton"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "model_repo_skeleton"
