"""The tensors of TensorRT-LLM's models, version by version, and configurations made of them.

The JSON files hold names, types and shapes as the templates of that version have them, one tensor
a line: «name TYPE dims optional».
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.nvidia_settings import FIXED, SURVEYED, UPSTREAM
from trt_tokenizers.repository.pbtxt import parse_config

#: Inputs of shape [1] that the C++ backend does not take as scalars.
_NO_SCALARS = re.compile(
    r"mrope_.*|skip_cross_attn_blocks|retention_.*|guided_.*|lookahead_.*|context_phase_params"
)
#: Tensors whose type is a placeholder.
_TYPES = {
    "context_logits": "logits_datatype",
    "generation_logits": "logits_datatype",
    "draft_logits": "logits_datatype",
    "encoder_input_features": "encoder_input_features_data_type",
    "prompt_embedding_table": "prompt_embedding_table_data_type",
}


def layout(version: str) -> Mapping[str, Any]:
    """Model -> inputs, outputs, parameters, placeholders and steps, of one of `SURVEYED`."""
    text = (files(__name__) / f"{version}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def layout_version(version: str) -> str:
    """The layout for TensorRT-LLM *version*: the newest surveyed one that is not newer.

    Raises:
        RepositoryError: no version, or one whose layout is not known.
    """
    match = re.match(r"v?(\d+)\.(\d+)", version)
    if not match:
        raise RepositoryError(
            f"{version!r} is no version of TensorRT-LLM; give one as 0.17 or 1.2.0"
        )
    wanted = int(match[1]), int(match[2])
    if (0, 5) < wanted < (0, 11) or wanted < (0, 5):
        raise RepositoryError(
            f"the layout of TensorRT-LLM {version} is not known; fill NVIDIA's templates of that "
            "version (fill_template -i FILE KEY:VALUE,…), then: trt-tokenizers adopt REPOSITORY"
        )
    if wanted > (1, 2):
        raise RepositoryError(
            f"TensorRT-LLM {version} has no C++ backend any more, the last was that of 1.2; serve "
            "with 1.2, or with another engine"
        )
    known = [(tuple(map(int, each.split("."))), each) for each in SURVEYED]
    return max(pair for pair in known if pair[0] <= wanted)[1]


def ensemble_config(version: str, values: Mapping[str, str]) -> Any:
    """A ModelConfig with what clients of that version send and read; without steps."""
    config = parse_config("")
    config.name, config.platform = "ensemble", "ensemble"
    config.max_batch_size = int(_value("triton_max_batch_size", values))
    _add_tensors(config, layout(version)["ensemble"], values)
    return config


def engine_config(version: str, values: Mapping[str, str]) -> Any:
    """The ModelConfig of an engine of the C++ backend.

    Args:
        values: placeholder -> value; an empty one leaves the backend its default.
    """
    its = layout(version)["tensorrt_llm"]
    config = parse_config("")
    config.name = "tensorrt_llm"
    config.backend = _value("triton_backend", values)
    size = config.max_batch_size = int(_value("triton_max_batch_size", values))
    decoupled = _value("decoupled_mode", values).lower() in ("true", "1", "t")
    config.model_transaction_policy.decoupled = decoupled
    placeholders = its["placeholders"]
    if "max_queue_delay_microseconds" in placeholders:
        config.dynamic_batching.preferred_batch_size.append(size)
        delay = int(_value("max_queue_delay_microseconds", values))
        config.dynamic_batching.max_queue_delay_microseconds = delay
    if "max_queue_size" in placeholders:
        policy = config.dynamic_batching.default_queue_policy
        policy.max_queue_size = int(_value("max_queue_size", values))
    _add_tensors(config, its, values)
    for tensor in config.input:
        if list(tensor.dims) == [1] and not _NO_SCALARS.fullmatch(tensor.name):
            tensor.reshape.SetInParent()  # to no dimensions
        elif not tensor.name.startswith("mrope_"):
            tensor.allow_ragged_batch = True
    config.instance_group.add(count=1, kind="KIND_CPU")
    by_parameter = {s.parameter: name for name, s in UPSTREAM.items() if s.parameter}
    for key in its["parameters"]:
        value = FIXED.get(key, values.get(by_parameter.get(key, key), ""))
        config.parameters[key].string_value = value
    return config


def _value(name: str, values: Mapping[str, str]) -> str:
    return values.get(name) or UPSTREAM[name].default


def _add_tensors(config: Any, its: Mapping[str, Any], values: Mapping[str, str]) -> None:
    for line in its["inputs"]:
        name, kind, dims, *optional = line.split()
        config.input.add(
            name=name,
            data_type=_type(name, kind, values),
            dims=map(int, dims.split(",")),
            optional=bool(optional),
        )
    for line in its["outputs"]:
        name, kind, dims = line.split()
        config.output.add(
            name=name, data_type=_type(name, kind, values), dims=map(int, dims.split(","))
        )


def _type(name: str, usual: str, values: Mapping[str, str]) -> str:
    return values.get(_TYPES.get(name, "")) or usual
