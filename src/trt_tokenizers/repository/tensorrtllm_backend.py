"""Model repositories for engines of TensorRT-LLM's C++ backend."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.memory.engine_folder import read_engine
from trt_tokenizers.repository.ensemble import (
    EnsembleBuilder,
    derived_parameters,
    set_parameters,
)
from trt_tokenizers.repository.nvidia_settings import FIXED, NVIDIA_SETTINGS, normalized
from trt_tokenizers.repository.pbtxt import format_config, parse_config
from trt_tokenizers.repository.schemas import schema, schema_version
from trt_tokenizers.repository.skeleton import skeleton, skeleton_configs
from trt_tokenizers.settings import PLACEHOLDER, nearest, parse_bool

CPP_BACKEND = "tensorrtllm"
#: The models around the engine.
TEXT_MODELS = ("preprocessing", "postprocessing")
#: Files that come from the skeleton unchanged.
_SKELETON_FILES = ("ensemble/1/.gitkeep", *(f"{name}/1/model.py" for name in TEXT_MODELS))
#: Inputs of shape [1] that the C++ backend does not take as scalars.
_NO_SCALARS = re.compile(
    r"mrope_.*|skip_cross_attn_blocks|retention_.*|guided_.*|lookahead_.*|context_phase_params"
)
#: Tensor -> the placeholder with its type.
_TYPES = {
    "context_logits": "logits_datatype",
    "generation_logits": "logits_datatype",
    "draft_logits": "logits_datatype",
    "encoder_input_features": "encoder_input_features_data_type",
    "prompt_embedding_table": "prompt_embedding_table_data_type",
}


def render_tensorrtllm(
    engine_dir: Path,
    version: str,
    values: Mapping[str, str],
    unfilled: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """Relative path -> text of every file of the repository.

    Args:
        engine_dir: the absolute path in the server. The engine's config.json gives the defaults.
        version: of TensorRT-LLM; empty: as the engine's config.json says.
        values: placeholder -> value.
        unfilled: settings of the text models that stay placeholders unless the engine decides them.

    Raises:
        RepositoryError: a value is unknown or wrong, or no schema fits the version.
    """
    built_version, facts = _read_engine_folder(engine_dir, version)
    schema_name = schema_version(version or built_version)
    _check_values(values, schema_name)
    values = {
        "engine_dir": str(engine_dir),
        "batching_strategy": NVIDIA_SETTINGS["batching_strategy"].default,
        "exclude_input_in_output": "true",
        "word_lists": "list",
        **facts,
        **{name: normalized(name, value) for name, value in values.items()},
    }
    engine = _engine_config(schema_name, values)
    configs = skeleton_configs()
    derived = {**derived_parameters(engine), "exclude_input_in_output": "true", **values}
    derived |= {
        name: f"${{{name}}}"
        for name in unfilled
        if name not in derived or name in ("tokenizer_type", "template")
    }
    for name in TEXT_MODELS:
        parameters = sorted(configs[name].parameters)
        set_parameters(configs[name], {key: derived.get(key, "") for key in parameters})
        configs[name].max_batch_size = engine.max_batch_size
    count = int(_value("preprocessing_instance_count", values))
    configs["preprocessing"].instance_group[0].count = count
    ensemble = parse_config('name: "ensemble" platform: "ensemble"')  # without steps
    ensemble.max_batch_size = engine.max_batch_size
    _add_tensors(ensemble, schema(schema_name)["ensemble"], values)
    builder = EnsembleBuilder(ensemble, engine, configs, "ensemble/config.pbtxt")
    comment = f"TensorRT-LLM's C++ backend, with the tensors of {schema_name}."
    return {
        **builder.build(),
        "tensorrt_llm/config.pbtxt": format_config(engine, comment),
        **{path: text for path, text in skeleton() if path in _SKELETON_FILES},
        "tensorrt_llm/1/.gitkeep": "",
    }


def _read_engine_folder(engine_dir: Path, version: str) -> tuple[str, dict[str, str]]:
    """The engine's version, and placeholder -> value from its config.json.

    Both are empty if the folder is not on this machine and *version* is given.
    """
    if not (engine_dir / "config.json").is_file() and version:
        return "", {}
    if not engine_dir.is_dir():
        raise RepositoryError(
            f"the engine's folder {engine_dir} does not exist; correct --engine-dir, or, if it is "
            "on another machine, give its version: --tensorrt-llm-version"
        )
    engine = read_engine(engine_dir)
    if not version and not engine.version:
        raise RepositoryError(
            f"{engine_dir / 'config.json'} does not say which TensorRT-LLM built the engine; give "
            "the version: --tensorrt-llm-version"
        )
    facts = {name: str(size) for name, size in engine.sizes.items()}
    if engine.max_batch_size is not None:
        facts["triton_max_batch_size"] = str(engine.max_batch_size)
    return engine.version, facts


def _check_values(values: Mapping[str, str], schema_name: str) -> None:
    texts = [text for path, text in skeleton() if path.split("/")[0] in TEXT_MODELS]
    known = {name for text in texts for name in PLACEHOLDER.findall(text)}
    known |= {*schema(schema_name)["tensorrt_llm"]["placeholders"], "max_beam_width"}
    for name, value in values.items():
        if name not in known:
            raise RepositoryError(
                f"unknown value {name!r} for TensorRT-LLM {schema_name}{nearest(name, known)}; "
                "list all: trt-tokenizers settings"
            )
        if PLACEHOLDER.fullmatch(value):
            raise RepositoryError(f"{name} is {value!r}, a placeholder; write the value out")
        setting = NVIDIA_SETTINGS.get(name)
        if setting is not None and (problem := setting.problem(value)):
            raise RepositoryError(problem)


def _engine_config(version: str, values: Mapping[str, str]) -> Any:
    model = schema(version)["tensorrt_llm"]
    config = parse_config('name: "tensorrt_llm"')
    config.backend = _value("triton_backend", values)
    size = config.max_batch_size = int(_value("triton_max_batch_size", values))
    decoupled = parse_bool(_value("decoupled_mode", values)) is True
    config.model_transaction_policy.decoupled = decoupled
    placeholders = model["placeholders"]
    if "max_queue_delay_microseconds" in placeholders:
        config.dynamic_batching.preferred_batch_size.append(size)
        delay = int(_value("max_queue_delay_microseconds", values))
        config.dynamic_batching.max_queue_delay_microseconds = delay
    if "max_queue_size" in placeholders:
        policy = config.dynamic_batching.default_queue_policy
        policy.max_queue_size = int(_value("max_queue_size", values))
    _add_tensors(config, model, values)
    for tensor in config.input:
        if list(tensor.dims) == [1] and not _NO_SCALARS.fullmatch(tensor.name):
            tensor.reshape.SetInParent()  # to no dimensions
        elif not tensor.name.startswith("mrope_"):
            tensor.allow_ragged_batch = True
    config.instance_group.add(count=1, kind="KIND_CPU")
    by_parameter = {s.parameter: name for name, s in NVIDIA_SETTINGS.items() if s.parameter}
    for key in model["parameters"]:
        value = FIXED.get(key, values.get(by_parameter.get(key, key), ""))
        config.parameters[key].string_value = value
    return config


def _value(name: str, values: Mapping[str, str]) -> str:
    return values.get(name) or NVIDIA_SETTINGS[name].default


def _add_tensors(config: Any, model: Mapping[str, Any], values: Mapping[str, str]) -> None:
    for tensors, lines in ((config.input, model["inputs"]), (config.output, model["outputs"])):
        for line in lines:
            name, data_type, dims, *optional = line.split()
            tensors.add(
                name=name,
                data_type=values.get(_TYPES.get(name, "")) or data_type,
                dims=map(int, dims.split(",")),
                **dict.fromkeys(optional, True),
            )
