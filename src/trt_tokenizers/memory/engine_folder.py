"""Reads config.json of a TensorRT-LLM engine, in the format of 0.5 to 0.7 or the current one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import RepositoryError


@dataclass(frozen=True)
class BuiltEngine:
    """Values of an engine's config.json.

    Attributes:
        parallel: size of ``tensor``, ``pipeline`` and ``context`` parallelism.
        max_batch_size: the limit of the build; None if not given.
        version: of the TensorRT-LLM that built the engine; empty before 0.6.
        files: names of the engine files, by rank.
    """

    folder: Path
    parallel: Mapping[str, int]
    max_batch_size: int | None
    version: str
    files: tuple[str, ...]


def read_engine(folder: Path) -> BuiltEngine:
    """Read the config.json of the engine in *folder*.

    Raises:
        RepositoryError: config.json is missing or has no known format.
    """
    config = read_config(folder / "config.json", "the folder that trtllm-build made")
    built: Mapping[str, Any]
    try:
        if "pretrained_config" in config:
            mapping = config["pretrained_config"].get("mapping", {})
            sizes = [int(mapping.get(f"{name}_size", 1)) for name in ("tp", "pp", "cp")]
            built = config.get("build_config", {})
            version = str(config.get("version", ""))
            files = [f"rank{rank}.engine" for rank in range(sizes[0] * sizes[1] * sizes[2])]
        else:  # TensorRT-LLM 0.5 to 0.7
            built = config["builder_config"]
            sizes = [int(built["tensor_parallel"]), int(built.get("pipeline_parallel", 1)), 1]
            version = ""
            pipeline = f"_pp{sizes[1]}" if sizes[1] > 1 else ""
            prefix = f"{built['name']}_{built['precision']}_tp{sizes[0]}{pipeline}_rank"
            files = [f"{prefix}{rank}.engine" for rank in range(sizes[0] * sizes[1])]
        batch = built.get("max_batch_size")
        return BuiltEngine(
            folder=folder,
            parallel=dict(zip(("tensor", "pipeline", "context"), sizes, strict=True)),
            max_batch_size=None if batch is None else int(batch),
            version=version,
            files=tuple(files),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RepositoryError(
            f"{folder / 'config.json'} has neither pretrained_config.mapping nor "
            f"builder_config.tensor_parallel of an engine ({type(error).__name__}: {error}); "
            "give the folder that trtllm-build made, not the checkpoint's"
        ) from None


def read_sizes(folder: Path) -> dict[str, int]:
    """``max_seq_len`` and ``vocab_size`` of the engine in *folder*, if its config.json can be read
    and has them."""
    try:
        config = read_config(folder / "config.json", "")
    except RepositoryError:
        return {}
    built: dict[str, Any] = config.get("build_config") or config.get("builder_config") or {}
    longest = built.get("max_seq_len")
    if longest is None and "max_input_len" in built and "max_output_len" in built:
        longest = built["max_input_len"] + built["max_output_len"]
    vocabulary = {**built, **(config.get("pretrained_config") or {})}.get("vocab_size")
    sizes = {"max_seq_len": longest, "vocab_size": vocabulary}
    return {name: size for name, size in sizes.items() if isinstance(size, int)}


def read_config(file: Path, wanted: str) -> dict[str, Any]:
    """Read the JSON object in *file*.

    Args:
        wanted: what the user should give instead, for the error message.

    Raises:
        RepositoryError: the file cannot be read or has no JSON object.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise RepositoryError(f"{file} cannot be read: {what}; give {wanted}") from None
    return config
