"""Sizes of a model for the memory estimate, from the files of its folder. Loads nothing."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.hf_config import text_model
from trt_tokenizers.memory.engine_folder import read_config, read_engine

_BYTES = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float8": 1, "fp8": 1, "int8": 1,
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4,
    "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a model.

    Attributes:
        weights: bytes of all ranks together; for an engine: its largest rank × number of ranks.
        kv_bytes: bytes of one number in the KV cache.
        max_num_tokens: tokens of one iteration; the size of activations depends on it.
        max_seq_len: tokens of the longest sequence.
        tensor_parallel, pipeline_parallel: sizes that the engine was built for; 1 for a checkpoint.
        config: config.json of a checkpoint; None for an engine.
    """

    folder: Path
    weights: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    hidden_size: int
    intermediate_size: int
    kv_bytes: int
    max_num_tokens: int
    max_seq_len: int
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    config: Mapping[str, Any] | None = None


def read_model(folder: Path, dtype: str = "") -> ModelSizes:
    """Read the sizes of a model in Hugging Face's layout or of a TensorRT-LLM engine.

    Args:
        dtype: type of a checkpoint's weights once loaded; empty: the checkpoint's own.

    Raises:
        RepositoryError: *folder* is neither, or values are missing.
    """
    config = read_config(folder / "config.json", "the folder of a model or of an engine")
    try:
        if "pretrained_config" in config or "builder_config" in config:
            return _engine(folder, config)
        return _checkpoint(folder, config, dtype)
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise RepositoryError(
            f"{folder / 'config.json'}: values for the estimate are missing "
            f"({type(error).__name__}: {error}); give the folder of a decoder-only model or its "
            "engine"
        ) from None


def _checkpoint(folder: Path, config: Mapping[str, Any], dtype: str) -> ModelSizes:
    config = text_model(config)
    hidden, heads, layers = _hidden_heads_layers(config)
    own = str(config.get("dtype") or config.get("torch_dtype") or "float16")
    length = int(config.get("max_position_embeddings") or config.get("n_positions") or 4096)
    return ModelSizes(
        folder=folder,
        weights=_weights(folder, dtype),
        layers=layers,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_size=int(config.get("head_dim") or hidden // heads),
        hidden_size=hidden,
        intermediate_size=int(config.get("intermediate_size") or 4 * hidden),
        kv_bytes=_BYTES[dtype or own],
        max_num_tokens=8192,  # TensorRT-LLM's default
        max_seq_len=length,
        config=config,
    )


def _hidden_heads_layers(config: Mapping[str, Any]) -> tuple[int, int, int]:
    return (
        _first(config, "hidden_size", "n_embd"),
        _first(config, "num_attention_heads", "num_heads", "n_head"),
        _first(config, "num_hidden_layers", "num_layers", "n_layer"),
    )


def _first(config: Mapping[str, Any], *names: str) -> int:
    """The value of the first of *names* in *config*.

    Raises:
        KeyError: none of them is there.
    """
    for name in names:
        if name in config:
            return int(config[name])
    raise KeyError(names[0])


def _weights(folder: Path, dtype: str) -> int:
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        for kind, count in _tensors(file):
            size = _BYTES[dtype] if dtype and kind in _FLOATS else _BYTES[kind]
            total += count * size
    if not total:
        raise RepositoryError(
            f"{folder} has no *.safetensors files; give the folder with the weights"
        )
    return total


def _tensors(file: Path) -> Iterator[tuple[str, int]]:
    """The dtype and number of elements of each tensor, from the header of *file*."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    for name, tensor in header.items():
        if name != "__metadata__":
            yield str(tensor["dtype"]), math.prod(tensor["shape"])


def _engine(folder: Path, config: Mapping[str, Any]) -> ModelSizes:
    engine = read_engine(folder)
    sizes = [(folder / file).stat().st_size for file in engine.files if (folder / file).is_file()]
    if not sizes:
        raise RepositoryError(
            f"{folder} has none of {', '.join(engine.files)}; give the whole folder that "
            "trtllm-build made"
        )
    # Before 0.8 all values are in builder_config.
    built = config.get("build_config") or config["builder_config"]
    model = config.get("pretrained_config") or built
    hidden, heads, layers = _hidden_heads_layers(model)
    quantized = str((model.get("quantization") or {}).get("kv_cache_quant_algo") or "").lower()
    kind = quantized or str(model.get("dtype") or model.get("precision") or "float16")
    inputs = int(built.get("max_input_len") or 1024)
    batch = int(built.get("max_batch_size") or 1)
    return ModelSizes(
        folder=folder,
        weights=max(sizes) * len(engine.files),
        layers=layers,
        heads=heads,
        kv_heads=int(model.get("num_key_value_heads") or model.get("num_kv_heads") or heads),
        head_size=int(model.get("head_size") or hidden // heads),
        hidden_size=hidden,
        intermediate_size=int(model.get("intermediate_size") or 4 * hidden),
        kv_bytes=_BYTES[kind],
        max_num_tokens=int(built.get("max_num_tokens") or batch * inputs),
        max_seq_len=int(built.get("max_seq_len") or inputs + int(built.get("max_output_len") or 0)),
        tensor_parallel=engine.parallel["tensor"],
        pipeline_parallel=engine.parallel["pipeline"],
    )
