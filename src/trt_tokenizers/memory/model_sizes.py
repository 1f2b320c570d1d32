"""Sizes of a model for the memory estimate, from the files of its folder. Loads nothing."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.hf_config import parse_json, text_model
from trt_tokenizers.memory.attention import HEADS, HIDDEN, KvLayers, first, kv_layers, number
from trt_tokenizers.memory.engine_folder import BuiltEngine, read_config, read_engine

#: Types whose names do not end in their number of bits.
_BITS = {"bool": 8, "half": 16, "float": 32, "double": 64}
#: Types of safetensors that --dtype converts.
_FLOATS = ("F64", "F32", "F16", "BF16")


def bits(dtype: str, where: object) -> int:
    """Bits of one number of a type, named as safetensors, torch or TensorRT-LLM do.

    Raises:
        RepositoryError: the type is unknown; names *where*.
    """
    name = dtype.removeprefix("torch.").lower()
    match = re.match(r"[a-z]+(\d+)", name)  # F8_E8M0, bfloat16, float8_e4m3fn, nvfp4
    if match is None and name not in _BITS:
        raise RepositoryError(f"{where}: the size of the type {dtype!r} is unknown; correct it")
    return int(match[1]) if match else _BITS[name]


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a model.

    Attributes:
        weights: bytes of all ranks together; for an engine: its largest rank × number of ranks.
        kv_layers: the layers with attention.
        kv_bits: bits of one number in the KV cache.
        max_num_tokens: tokens of one iteration; the size of activations depends on it.
        max_seq_len: tokens of the longest sequence.
        tensor_parallel, pipeline_parallel: sizes that the engine was built for; 1 for a checkpoint.
        config: config.json of a checkpoint; None for an engine.
    """

    folder: Path
    weights: int
    heads: int
    kv_layers: tuple[KvLayers, ...]
    hidden_size: int
    intermediate_size: int
    kv_bits: int
    max_num_tokens: int
    max_seq_len: int
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    config: Mapping[str, Any] | None = None

    def kv_bytes(self, tokens: int, tensor: int = 1, pipeline: int = 1) -> int:
        """Bytes of the KV cache of one rank for a sequence of *tokens*."""
        numbers = sum(
            math.ceil(each.layers / pipeline) * math.ceil(each.heads / tensor) * each.size
            * min(tokens, each.window or tokens)
            for each in self.kv_layers
        )  # fmt: skip
        return numbers * self.kv_bits // 8

    @property
    def layers(self) -> int:
        """Number of layers with attention."""
        return sum(each.layers for each in self.kv_layers)

    @property
    def kv_heads(self) -> int:
        """Key-value heads of the layer that has the most."""
        return max(each.heads for each in self.kv_layers)

    @property
    def head_size(self) -> int:
        """Numbers in the longest key or value."""
        return max(each.size for each in self.kv_layers) // 2


def read_model(folder: Path, dtype: str = "") -> ModelSizes:
    """Read the sizes of a model in Hugging Face's layout or of a TensorRT-LLM engine.

    Args:
        dtype: type of a checkpoint's weights once loaded; empty: the checkpoint's own.

    Raises:
        RepositoryError: *folder* is neither, or values are missing.
    """
    config = read_config(folder, "the folder of a model or of an engine")
    try:
        if "pretrained_config" in config or "builder_config" in config:
            return _engine(read_engine(folder))
        return _checkpoint(folder, config, dtype)
    except (LookupError, TypeError, ValueError, ArithmeticError, struct.error) as error:
        raise RepositoryError(
            f"{folder / 'config.json'}: values for the estimate are missing "
            f"({type(error).__name__}: {error}); give the folder of a decoder-only model or its "
            "engine"
        ) from None


def _checkpoint(folder: Path, config: Mapping[str, Any], dtype: str) -> ModelSizes:
    config = text_model(config)
    wanted = bits(dtype, "--dtype") if dtype else 0
    own = str(config.get("dtype") or config.get("torch_dtype") or "float16")
    lengths = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    return _sizes(
        folder,
        config,
        weights=_weights(folder, wanted),
        kv_bits=wanted or bits(own, folder / "config.json"),
        max_num_tokens=8192,  # TensorRT-LLM's default
        max_seq_len=int(first(config, lengths) or 4096),
        config=config,
    )


def _sizes(folder: Path, values: Mapping[str, Any], **others: Any) -> ModelSizes:
    """The sizes that checkpoints and engines name in the same way, and *others*."""
    hidden = number(values, HIDDEN)
    return ModelSizes(
        folder=folder,
        heads=number(values, HEADS),
        kv_layers=kv_layers(values, folder / "config.json"),
        hidden_size=hidden,
        intermediate_size=int(values.get("intermediate_size") or 4 * hidden),
        **others,
    )


def _weights(folder: Path, float_bits: int) -> int:
    """Bytes of all tensors, the floats with *float_bits* unless it is 0."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        for kind, count in _tensors(file):
            own = bits(kind, file)
            total += count * (float_bits or own if kind in _FLOATS else own) // 8
    if not total:
        raise RepositoryError(
            f"{folder} has no *.safetensors files; give the folder with the weights"
        )
    return total


def _tensors(file: Path) -> Iterator[tuple[str, int]]:
    """The dtype and number of elements of each tensor, from the header of *file*."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > file.stat().st_size:
            raise RepositoryError(f"{file} is not a safetensors file; download it again")
        header = parse_json(opened.read(length).decode())
    for name, tensor in header.items():
        if name != "__metadata__":
            yield str(tensor["dtype"]), math.prod(tensor["shape"])


def _engine(engine: BuiltEngine) -> ModelSizes:
    folder, model, built = engine.folder, engine.model, engine.built
    sizes = engine.rank_sizes().values()
    if not sizes:
        raise RepositoryError(
            f"{folder} has none of {', '.join(engine.files)}; give the whole folder that "
            "trtllm-build made"
        )
    quantized = str((model.get("quantization") or {}).get("kv_cache_quant_algo") or "").lower()
    kind = quantized or str(model.get("dtype") or model.get("precision") or "float16")
    inputs = int(built.get("max_input_len") or 1024)
    return _sizes(
        folder,
        {"num_kv_heads": number(model, HEADS), **model},  # TensorRT-LLM's default is multi-head
        weights=max(sizes) * len(engine.files),
        kv_bits=bits(kind, folder / "config.json"),
        max_num_tokens=int(built.get("max_num_tokens") or (engine.max_batch_size or 1) * inputs),
        max_seq_len=engine.sizes.get("max_seq_len") or inputs,
        tensor_parallel=engine.parallel["tensor"],
        pipeline_parallel=engine.parallel["pipeline"],
    )
