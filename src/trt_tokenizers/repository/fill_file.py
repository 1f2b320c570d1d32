"""Fill a file, or make this package's skeleton a repository of the C++ backend."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.hf_config import read_text
from trt_tokenizers.memory.engine_folder import read_engine
from trt_tokenizers.repository.atomic_replace import replace_text
from trt_tokenizers.repository.ensemble import parameters
from trt_tokenizers.repository.nvidia_settings import NVIDIA_SETTINGS
from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.repository.placeholders import fill, fill_template, parse_substitutions
from trt_tokenizers.repository.schemas import schema, schema_version, unknown_version
from trt_tokenizers.repository.tensorrtllm_backend import TEXT_MODELS, render_tensorrtllm
from trt_tokenizers.settings import PLACEHOLDER

Note = Callable[[str], None]
#: Keys that only an engine of the C++ backend has.
_CPP_KEYS = {"engine_dir", "batching_strategy"}
#: Its engine's tensors fit the most versions: 0.11 to 1.1.
_DEFAULT_VERSION = "0.17"
#: Settings outside quotes of the text models; an empty value means the default.
_DEFAULTS = {"triton_max_batch_size": "", "preprocessing_instance_count": ""}


def fill_file(file: Path, substitutions: str, *, in_place: bool, note: Note) -> str:
    """`fill_template` for a file. With *in_place* the result replaces the file atomically.

    If the file is the engine of this package's skeleton and the keys are those of the C++ backend,
    the result is an engine of that backend. With *in_place* the ensemble and the text models beside
    it then follow.

    Raises:
        RepositoryError: as `fill_template`, or the file cannot be read or replaced.
    """
    try:
        text = read_text(file)
        values = parse_substitutions(substitutions)
        if "${engine}" in text and _CPP_KEYS & values.keys():
            changed = _convert_skeleton(file, values, note)
        else:
            changed = {file: fill_template(text, substitutions, str(file), note)}
        for path, new in changed.items() if in_place else ():
            replace_text(path, new)
    except OSError as error:
        raise RepositoryError(
            f"{error.filename or file} cannot be filled: {error.strerror}; correct the path or its "
            "permissions"
        ) from None
    except ModuleNotFoundError as error:
        raise RepositoryError(
            f"{file}: a repository of the C++ backend needs the module {error.name!r}; pip install "
            "'tritonclient[grpc]'"
        ) from None
    return changed[file]


def _convert_skeleton(file: Path, values: dict[str, str], note: Note) -> dict[Path, str]:
    """Path -> new text of the four models of a skeleton whose engine is *file*.

    What is filled in the text models stays; their unfilled tokenizer settings stay unfilled.
    """
    folder = file.absolute().parent.parent
    name = file.absolute().parent.name
    if name != "tensorrt_llm":
        raise RepositoryError(
            f"{file} is this package's skeleton of an engine, in the folder {name!r}; to fill it "
            "for the C++ backend, name the folder tensorrt_llm"
        )
    if not values.get("engine_dir"):
        raise RepositoryError(f"{file}: engine_dir has no value; set it to the engine's folder")
    engine_dir = Path(values["engine_dir"])
    version = _version(engine_dir, note)
    known = schema(schema_version(version))["tensorrt_llm"]["placeholders"]
    window = values.pop("max_kv_cache_length", "")
    if window:  # its older name
        values.setdefault("max_attention_window_size", window)
    for key in [key for key in values if key not in (*known, "max_beam_width")]:
        if key not in NVIDIA_SETTINGS:
            raise RepositoryError(f"{file} has no placeholder {key!r}; remove it")
        note(f"the engine of TensorRT-LLM {version} has no setting {key}; ignored")
        del values[key]
    # TensorRT-LLM's default, unlike that of `generate`.
    values["exclude_input_in_output"] = values.get("exclude_input_in_output") or "false"
    kept = set()
    for model in TEXT_MODELS:
        path = folder / model / "config.pbtxt"
        text = read_text(path)
        config = parse_config(fill(text, _DEFAULTS, str(path), keep=True))
        for key, value in parameters(config).items():
            if value:
                values[key] = value
            elif PLACEHOLDER.search(config.parameters[key].string_value):
                kept.add(key)
    rendered = render_tensorrtllm(
        engine_dir, version, values, unfilled=frozenset(kept - values.keys())
    )
    note(
        f"{folder}: now a repository of TensorRT-LLM's C++ backend, with the tensors of {version}; "
        "ensemble, preprocessing and postprocessing follow"
    )
    configs = {folder / path: text for path, text in rendered.items() if path.endswith(".pbtxt")}
    return {**configs, file: configs.pop(folder / name / "config.pbtxt")}


def _version(engine_dir: Path, note: Note) -> str:
    version = _DEFAULT_VERSION
    if (engine_dir / "config.json").is_file():
        version = read_engine(engine_dir).version or version
    else:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version("tensorrt_llm")
    if nearest := unknown_version(version):
        note(
            f"the tensors of TensorRT-LLM {version} are not known, those of {nearest} are used; "
            "compare tensorrt_llm/config.pbtxt with that version's own template"
        )
    return nearest or version
