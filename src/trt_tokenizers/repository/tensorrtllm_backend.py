"""Repositories for engines of TensorRT-LLM's C++ backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.memory.engine_folder import read_engine, read_sizes
from trt_tokenizers.repository.ensemble import derived_parameters, set_parameters, wire
from trt_tokenizers.repository.nvidia_settings import UPSTREAM
from trt_tokenizers.repository.pbtxt import format_config
from trt_tokenizers.repository.placeholders import PLACEHOLDER
from trt_tokenizers.repository.schemas import engine_config, ensemble_config, layout, layout_version
from trt_tokenizers.repository.skeleton import skeleton, skeleton_configs
from trt_tokenizers.settings import nearest

CPP_BACKEND = "tensorrtllm"
_TEXT = ("preprocessing", "postprocessing")


def render_cpp(engine_dir: Path, version: str, values: Mapping[str, str]) -> dict[str, str]:
    """Relative path -> text of every file of the repository.

    Args:
        engine_dir: absolute, as the server will see it. What it says of itself is the default.
        version: of TensorRT-LLM; empty: as the engine says.
        values: placeholder -> value.

    Raises:
        RepositoryError: a value is unknown or wrong, or the version is not known.
    """
    facts = _facts(engine_dir, version)
    surveyed = layout_version(version or facts.pop("version", ""))
    facts.pop("version", None)
    known = set(layout(surveyed)["tensorrt_llm"]["placeholders"]) | {"max_beam_width"}
    texts = [text for path, text in skeleton() if path.split("/")[0] in _TEXT]
    ours = {name for text in texts for name in PLACEHOLDER.findall(text)}
    for name, value in values.items():
        if name not in known | ours:
            raise RepositoryError(
                f"unknown value {name!r} for TensorRT-LLM {surveyed}"
                f"{nearest(name, known | ours)}; list all: trt-tokenizers settings"
            )
        if "${" in value:
            raise RepositoryError(f"{name} is {value!r}, a placeholder; write the value out")
        setting = UPSTREAM.get(name)
        if setting is not None and (problem := setting.problem(value)):
            raise RepositoryError(problem)
    given = {
        "engine_dir": str(engine_dir),
        "batching_strategy": UPSTREAM["batching_strategy"].default,
        "exclude_input_in_output": "true",
        "word_lists": "list",
        **facts,
        **values,
    }
    engine = engine_config(surveyed, given)
    configs = skeleton_configs()
    derived = {**derived_parameters(engine), "exclude_input_in_output": "true", **given}
    for name in _TEXT:
        parameters = sorted(configs[name].parameters)
        set_parameters(configs[name], {key: derived.get(key, "") for key in parameters})
        configs[name].max_batch_size = engine.max_batch_size
    count = UPSTREAM["preprocessing_instance_count"]
    configs["preprocessing"].instance_group[0].count = int(given.get(count.name) or count.default)
    ensemble = ensemble_config(surveyed, given)
    ensemble.max_batch_size = engine.max_batch_size
    wired = wire(ensemble, engine, configs, "ensemble/config.pbtxt")
    made = {
        "ensemble": (wired.ensemble, "Text or messages in, exact text out."),
        "preprocessing": (wired.preprocessing, "Text or messages -> token ids."),
        "tensorrt_llm": (engine, f"TensorRT-LLM's C++ backend, with the tensors of {surveyed}."),
        "postprocessing": (
            wired.postprocessing,
            "One instance, no dynamic batching: a stream's chunks are decoded in their order.",
        ),
    }
    rendered = {
        f"{name}/config.pbtxt": format_config(config, text) for name, (config, text) in made.items()
    }
    rendered |= {
        path: text
        for path, text in skeleton()
        if path in ("ensemble/1/.gitkeep", *(f"{name}/1/model.py" for name in _TEXT))
    }
    return {**rendered, "tensorrt_llm/1/.gitkeep": ""}


def ranks(engine_dir: Path) -> int:
    """How many the engine was built for; 1 where it is not on this machine."""
    return len(read_engine(engine_dir).files) if engine_dir.is_dir() else 1


def _facts(engine_dir: Path, version: str) -> dict[str, str]:
    """Placeholder -> what the engine was built for; nothing if it is not on this machine."""
    if not engine_dir.is_dir() and version:
        return {}
    if not engine_dir.is_dir():
        raise RepositoryError(
            f"the engine's folder {engine_dir} does not exist; correct --engine-dir, or, if it is "
            "on another machine, say its version: --tensorrt-llm-version"
        )
    engine = read_engine(engine_dir)
    if not version and not engine.version:
        raise RepositoryError(
            f"{engine_dir / 'config.json'} does not say which TensorRT-LLM built the engine; say "
            "it: --tensorrt-llm-version"
        )
    facts = {"version": engine.version}
    if engine.max_batch_size is not None:
        facts["triton_max_batch_size"] = str(engine.max_batch_size)
    sizes = read_sizes(engine_dir)
    return facts | {name: str(size) for name, size in sizes.items()}
