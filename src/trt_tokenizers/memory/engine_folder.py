"""Reads config.json of a TensorRT-LLM engine, in the format of 0.5 to 0.7 or the current one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.hf_config import read_mapping


@dataclass(frozen=True)
class BuiltEngine:
    """Values of an engine's config.json.

    Attributes:
        parallel: size of ``tensor``, ``pipeline`` and ``context`` parallelism.
        max_batch_size: the limit of the build; None if not given.
        version: of the TensorRT-LLM that built the engine; empty before 0.8.
        files: names of the engine files, by rank.
        model: the model's values, without those that are null.
        built: the build's values; before 0.8 the same as *model*.
    """

    folder: Path
    parallel: Mapping[str, int]
    max_batch_size: int | None
    version: str
    files: tuple[str, ...]
    model: Mapping[str, Any]
    built: Mapping[str, Any]

    @property
    def sizes(self) -> dict[str, int]:
        """``max_seq_len`` and ``vocab_size``, as far as they are known."""
        longest = self.built.get("max_seq_len")
        if longest is None and {"max_input_len", "max_output_len"} <= self.built.keys():
            longest = self.built["max_input_len"] + self.built["max_output_len"]
        found = {"max_seq_len": longest, "vocab_size": self.model.get("vocab_size")}
        return {name: size for name, size in found.items() if isinstance(size, int)}

    def rank_sizes(self) -> dict[Path, int]:
        """Each rank's engine file that exists, and its bytes."""
        files = [self.folder / name for name in self.files]
        return {file: file.stat().st_size for file in files if file.is_file()}


def read_engine(folder: Path) -> BuiltEngine:
    """Read the config.json of the engine in *folder*.

    Raises:
        RepositoryError: config.json is missing or has no known format.
    """
    config = read_config(folder, "the folder that trtllm-build made")
    try:
        if "pretrained_config" in config:
            model, built = config["pretrained_config"], config.get("build_config", {})
            mapping = model.get("mapping", {})
            sizes = [int(mapping.get(f"{name}_size", 1)) for name in ("tp", "pp", "cp")]
            version = str(config.get("version", ""))
            prefix = "rank"
        else:  # TensorRT-LLM 0.5 to 0.7
            model = built = config["builder_config"]
            sizes = [int(built["tensor_parallel"]), int(built.get("pipeline_parallel", 1)), 1]
            pipeline = f"_pp{sizes[1]}" if sizes[1] > 1 else ""
            version = ""
            prefix = f"{built['name']}_{built['precision']}_tp{sizes[0]}{pipeline}_rank"
        batch = built.get("max_batch_size")
        return BuiltEngine(
            folder=folder,
            parallel=dict(zip(("tensor", "pipeline", "context"), sizes, strict=True)),
            max_batch_size=None if batch is None else int(batch),
            version=version,
            files=tuple(f"{prefix}{rank}.engine" for rank in range(math.prod(sizes))),
            model={name: value for name, value in model.items() if value is not None},
            built=built,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RepositoryError(
            f"{folder / 'config.json'} has neither pretrained_config.mapping nor "
            f"builder_config.tensor_parallel of an engine ({type(error).__name__}: {error}); "
            "give the folder that trtllm-build made, not the checkpoint's"
        ) from None


def read_config(folder: Path, wanted: str) -> dict[str, Any]:
    """config.json of a model or engine.

    Args:
        wanted: what the user should give instead, for the error message.

    Raises:
        RepositoryError: the file cannot be read or has no JSON object.
    """
    return read_mapping(folder / "config.json", RepositoryError, f"give {wanted}")
