"""Checks of a build: the model, how it is split, its types, and the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trt_tokenizers.errors import RepositoryError, SettingsError
from trt_tokenizers.hf_config import splittable
from trt_tokenizers.memory.attention import LAYERS, number
from trt_tokenizers.repository.builds import facts
from trt_tokenizers.repository.builds.facts import Quantization, Recipe
from trt_tokenizers.repository.builds.options import BuildOptions
from trt_tokenizers.settings import nearest

_DTYPES = ("float16", "bfloat16", "float32")


class ModelConfig(NamedTuple):
    """A model and the version that shall build it.

    Attributes:
        file: its config.json.
        config: what is in it, of the text model.
        version: of TensorRT-LLM.
    """

    file: Path
    config: Mapping[str, Any]
    version: str

    @property
    def type(self) -> str:
        """The model_type; empty if config.json has none."""
        return str(self.config.get("model_type") or "")


def find_recipe(model: ModelConfig) -> Recipe:
    """The programs that build *model*.

    Raises:
        RepositoryError: its version does not know the model.
    """
    rows = [row for row in facts.RECIPES if model.type in row.model_types]
    if not rows:
        types = sorted({each for row in facts.RECIPES for each in row.model_types})
        raise RepositoryError(
            f"{model.file}: no known TensorRT-LLM builds engines of model_type {model.type!r}"
            f"{nearest(model.type, types)}; known are {', '.join(types)}; serve others with "
            "generate --engine llmapi, vllm or transformers"
        )
    special = {row.variant for row in rows} & _variants(model.config)
    for variant in sorted(special) or [""]:
        same = [row for row in rows if row.variant == variant]
        found = [row for row in same if facts.valid(row, model.version)]
        if not found:
            raise RepositoryError(
                f"{model.file}: TensorRT-LLM {model.version} does not know model_type "
                f"{model.type!r}{' with ' if variant else ''}{variant}; known to build it are "
                f"{same[0].since} to {same[-1].until}"
            )
    return found[0]


def _variants(config: Mapping[str, Any]) -> set[str]:
    """What a model may have that its model_type does not say, as in `Recipe.variant`."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    variants = {f"rope_type {rope.get('rope_type') or rope.get('type')}"}
    return variants | ({"tie_word_embeddings"} if config.get("tie_word_embeddings") else set())


def check_split(options: BuildOptions, model: ModelConfig, recipe: Recipe) -> None:
    """Check the parallel sizes, which are decided.

    Raises:
        RepositoryError: the heads or layers cannot be split in this way.
    """
    if why := splittable(model.config, options.tensor):
        raise RepositoryError(f"{model.file}: {why}")
    stages = options.pipeline
    if stages == 1:
        return
    if not facts.at_least(model.version, since := recipe.pipeline_since):
        fix = f"use {since} or newer, or --pp 1" if since else "use --pp 1"
        raise RepositoryError(
            f"{model.file}: TensorRT-LLM {model.version} has no pipeline parallelism for "
            f"{model.type}; {fix}"
        )
    layers = number(model.config, LAYERS)
    if layers % stages and not facts.has("uneven_pipeline", model.version):
        raise RepositoryError(
            f"{model.file}: TensorRT-LLM {model.version} cannot split {layers} layers over a "
            f"pipeline parallel size of {stages}; choose a --pp that divides {layers}, or use 0.11 "
            "or newer"
        )


def check_quantized_checkpoint(options: BuildOptions, model: ModelConfig) -> None:
    """Check a model whose weights are quantized in its folder.

    Raises:
        RepositoryError: its version does not build such a model, or would quantize it again.
    """
    method = (model.config.get("quantization_config") or {}).get("quant_method")
    if not method:
        return
    rows = facts.FACTS["quantized_checkpoints"]
    since = [r["since"] for r in rows if model.type in r["model_types"] and method in r["methods"]]
    if options.quantization or not any(facts.at_least(model.version, each) for each in since):
        known = f", {since[0]} and newer without --quantization are" if since else ""
        raise RepositoryError(
            f"{model.file}: the weights are quantized already ({method}), and TensorRT-LLM "
            f"{model.version} is not known to build such a {model.type}{known}; give the folder of "
            "the original model"
        )


def find_quantization(name: str, model: ModelConfig) -> Quantization:
    """The quantization *name* for *model*.

    Raises:
        SettingsError: there is none of this name.
        RepositoryError: this version, or no version, has it for the model.
    """
    if name not in facts.QUANTIZATIONS:
        raise SettingsError(
            f"--quantization {name}{nearest(name, facts.QUANTIZATIONS)} is unknown; known are "
            f"{', '.join(facts.QUANTIZATIONS)}"
        )
    rows = [
        row["since"]
        for row in facts.FACTS["quantized_models"]
        if name in row["quantizations"] and model.type in row["model_types"]
    ]
    if not rows:
        raise RepositoryError(
            f"{model.file}: no TensorRT-LLM is known to build {name} of {model.type!r}; choose "
            "another --quantization, or none"
        )
    if not facts.at_least(model.version, rows[0]):
        raise RepositoryError(
            f"{model.file}: {name} of {model.type!r} is known since TensorRT-LLM {rows[0]}, not in "
            f"{model.version}; use a newer version, or another --quantization"
        )
    return facts.QUANTIZATIONS[name]


def choose_dtype(options: BuildOptions, model: ModelConfig) -> str:
    """The type of the weights that are not quantized, as TensorRT-LLM's `auto` chooses it.

    Raises:
        SettingsError: the type or the GPU is unknown.
        RepositoryError: the GPU does not have it, or is not supported by this version.
    """
    own = str(model.config.get("dtype") or model.config.get("torch_dtype") or "float32")
    own = own.removeprefix("torch.")
    dtype = options.dtype or ("float16" if own == "float32" else own)
    if dtype not in _DTYPES:
        raise SettingsError(f"--dtype {dtype} is not a type of weights; give {', '.join(_DTYPES)}")
    if not options.gpu:
        return dtype
    _check_gpu(options.gpu.upper(), model.version, [dtype, options.quantization])
    return dtype


def _check_gpu(name: str, version: str, types: list[str]) -> None:
    if name not in facts.GPUS:
        raise SettingsError(
            f"--gpu {name}{nearest(name, facts.GPUS)} is unknown; known are {', '.join(facts.GPUS)}"
        )
    gpu = facts.GPUS[name]
    if not facts.valid(gpu, version):
        raise RepositoryError(
            f"TensorRT-LLM {version} does not support the GPU {name}; known to support it are "
            f"{gpu.since} to {gpu.until}"
        )
    for kind in types:
        needed = facts.TYPES.get(kind, 0)
        if needed > gpu.capability:
            able = [each.name for each in facts.GPUS.values() if each.capability >= needed]
            fix = "--dtype float16" if kind == "bfloat16" else "another --quantization"
            raise RepositoryError(
                f"the GPU {name} has no {kind}; use {fix}, or one of {', '.join(able)}"
            )
