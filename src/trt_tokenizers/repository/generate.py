"""A model repository: render it from the skeleton, then write it.

`render` touches nothing; `write` is the one function that does, all or nothing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from trt_tokenizers.engines.tensors import PERF
from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.hf_config import read_json
from trt_tokenizers.repository.atomic_replace import copy_tree, put_in_place, staging
from trt_tokenizers.repository.nvidia_settings import UPSTREAM
from trt_tokenizers.repository.pbtxt import format_config, parse_config, quoted
from trt_tokenizers.repository.placeholders import PLACEHOLDER, fill
from trt_tokenizers.repository.skeleton import skeleton
from trt_tokenizers.repository.tensorrtllm_backend import CPP_BACKEND, render_cpp
from trt_tokenizers.settings import MODEL_DIRECTORY, nearest, parse
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.files import SMALL_FILES
from trt_tokenizers.tokenizers.registry import create

#: The engine whose model may be on the hub, and that takes arguments of its own.
LLM_API = "llmapi"
VLLM = "vllm"
#: Lists the files that `write` made, and tells its repository from anybody else's.
_MARK = ".trt-tokenizers"
_COPIED_TOKENIZER = "preprocessing/1/tokenizer"
#: What a tokenizer may be made of that does not say it.
_VOCABULARY_FILES = (
    "tokenizer*", "merges.txt", "vocab.json", "encoder.json", "vocab.bpe", "*.model", "*.tiktoken",
    "tekken*.json", "tokenization_*.py",
)  # fmt: skip


@dataclass(frozen=True)
class GenerateOptions:
    """What `generate` is asked for.

    Attributes:
        engine: name of a Python engine, module:Class, or tensorrtllm: the C++ backend.
        model_dir: the model's folder, in Hugging Face's layout; the C++ backend needs none.
        tokenizer_dir: the tokenizer's folder; the model's if empty.
        engine_dir: for the C++ backend: the folder that the engine's build made.
        version: of TensorRT-LLM; empty: as the engine says.
        copy_tokenizer: put the tokenizer's files into the repository.
        values: placeholder -> value, over the defaults.
        outputs: of the ensemble, by name; empty: the skeleton's.
        engine_parameters: what the engine takes beside the skeleton's own parameters.
        llm_args: for the engine llmapi: arguments of TensorRT-LLM's LLM().
        engine_args: for the engine vllm: fields of vLLM's AsyncEngineArgs.
    """

    engine: str
    model_dir: Path | None = None
    tokenizer_dir: Path | None = None
    engine_dir: Path | None = None
    version: str = ""
    copy_tokenizer: bool = False
    tokenizer_type: str = "auto"
    template: str = "auto"
    values: Mapping[str, str] = field(default_factory=dict)
    engine_parameters: Mapping[str, str] = field(default_factory=dict)
    llm_args: Mapping[str, Any] = field(default_factory=dict)
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()


def render(deployment: GenerateOptions) -> dict[str, str]:
    """Relative path -> text of every file of the repository.

    Raises:
        RepositoryError: a value is unknown or breaks a config; the model's folder is no model.
    """
    if deployment.engine == CPP_BACKEND:
        return _render_cpp(deployment)
    values = _values(deployment)
    texts = dict(skeleton())
    used = {name for text in texts.values() for name in PLACEHOLDER.findall(text)}
    rendered = {
        path: fill(text, values, path) if path.endswith(".pbtxt") else text
        for path, text in texts.items()
    }
    if deployment.outputs:
        path = "ensemble/config.pbtxt"
        rendered[path] = _with_outputs(rendered[path], deployment.outputs)
    rendered["tensorrt_llm/config.pbtxt"] += "".join(
        _parameter(*pair) for pair in deployment.engine_parameters.items()
    )
    for name in deployment.values:
        if name not in used:
            raise RepositoryError(f"unknown value {name!r}{nearest(name, used)}; leave it out")
    return rendered


def _render_cpp(deployment: GenerateOptions) -> dict[str, str]:
    if deployment.engine_dir is None:
        raise RepositoryError(
            f"the engine {CPP_BACKEND} has no folder; set --engine-dir to what its build made"
        )
    if (
        deployment.engine_parameters
        or deployment.llm_args
        or deployment.engine_args
        or deployment.outputs
    ):
        raise RepositoryError(
            "--engine-parameter, --llm-arg, --engine-arg and --outputs are for Python engines; "
            f"{CPP_BACKEND} has all outputs of its version, and its parameters by --set"
        )
    values = {
        "tokenizer_dir": _tokenizer_value(deployment),
        "tokenizer_type": deployment.tokenizer_type,
        "template": deployment.template,
        **deployment.values,
    }
    return render_cpp(deployment.engine_dir.absolute(), deployment.version, values)


def _tokenizer_dir(deployment: GenerateOptions) -> Path:
    folder = deployment.tokenizer_dir or deployment.model_dir
    if folder is None:
        raise RepositoryError("the tokenizer has no folder; set --tokenizer-dir")
    if not folder.is_dir():
        raise RepositoryError(
            f"tokenizer folder {folder.absolute()} does not exist; set --tokenizer-dir"
        )
    return folder.resolve()


def _tokenizer_value(deployment: GenerateOptions) -> str:
    folder = _tokenizer_dir(deployment)
    if not deployment.copy_tokenizer:
        return str(folder)
    return f"{MODEL_DIRECTORY}/../{_COPIED_TOKENIZER}"


def tokenizer_files(deployment: GenerateOptions) -> dict[str, Path]:
    """Relative path in the repository -> file to copy there; empty if none were asked for. They
    are those that a tokenizer of this type reads.

    Raises:
        TokenizerError: it does not load.
        SettingsError: a value for it is of another type.
    """
    if not deployment.copy_tokenizer:
        return {}
    folder = _tokenizer_dir(deployment)
    own = {setting.name for setting in fields(TokenizerSettings)}
    values = {name: value for name, value in deployment.values.items() if name in own and value}
    values |= {"tokenizer_dir": str(folder), "tokenizer_type": deployment.tokenizer_type}
    vocabulary = (
        create(parse(TokenizerSettings, values, "--set")).vocabulary_files or _VOCABULARY_FILES
    )
    return {
        f"{_COPIED_TOKENIZER}/{path.relative_to(folder)}": path
        for pattern in (*vocabulary, *SMALL_FILES)
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }


_TYPES = {np.int32: "TYPE_INT32", np.int64: "TYPE_INT64", np.float32: "TYPE_FP32"}
#: Outputs that the ensemble may have beside the skeleton's: step, its output, type, dims.
_MORE_OUTPUTS = {
    "output_ids": ("postprocessing", "OUT_IDS", "TYPE_INT32", (-1, -1)),
    "batch_index": ("tensorrt_llm", "batch_index", "TYPE_INT32", (1,)),
    "sequence_index": ("tensorrt_llm", "sequence_index", "TYPE_INT32", (1,)),
    **{name: ("tensorrt_llm", name, _TYPES[dtype], (1,)) for name, dtype in PERF.items()},
}


def _with_outputs(text: str, wanted: tuple[str, ...]) -> str:
    """The ensemble's configuration with just these outputs: each that is mapped costs.

    Raises:
        RepositoryError: one of them does not exist.
    """
    config = parse_config(text)
    present = {output.name: output for output in config.output}
    steps = {step.model_name: step for step in config.ensemble_scheduling.step}
    for name in wanted:
        if name in present:
            continue
        if name not in _MORE_OUTPUTS:
            known = [*present, *_MORE_OUTPUTS]
            raise RepositoryError(
                f"the ensemble has no output {name!r}{nearest(name, known)}; known are: "
                + ", ".join(sorted(known))
            )
        step, tensor, data_type, dims = _MORE_OUTPUTS[name]
        steps[step].output_map[tensor] = name
        config.output.add(name=name, data_type=data_type, dims=dims)
    for name, output in present.items():
        if name not in wanted:
            config.output.remove(output)
            for step in steps.values():
                for tensor in [t for t, target in step.output_map.items() if target == name]:
                    del step.output_map[tensor]
    return format_config(config)


def _parameter(key: str, value: str) -> str:
    return (
        f"parameters {{\n  key: {quoted(key)}\n  value: {{ string_value: {quoted(value)} }}\n}}\n"
    )


def _values(deployment: GenerateOptions) -> dict[str, str]:
    if deployment.model_dir is None:
        raise RepositoryError("the engine has no model; set --model to its folder")
    if deployment.llm_args and deployment.engine != LLM_API:
        raise RepositoryError(f"--llm-arg is for the engine {LLM_API}; leave it out")
    if deployment.engine_args and deployment.engine != VLLM:
        raise RepositoryError(f"--engine-arg is for the engine {VLLM}; leave it out")
    on_hub = deployment.engine in (LLM_API, VLLM) and not deployment.model_dir.exists()
    model_dir = deployment.model_dir if on_hub else deployment.model_dir.resolve()
    config = read_json(model_dir / "config.json")
    if not (config or on_hub):
        raise RepositoryError(
            f"{model_dir} holds no config.json; --model must be a Hugging Face model folder"
        )
    llm_args = dict(deployment.llm_args)
    engine_args = dict(deployment.engine_args)
    max_seq_len = llm_args.pop("max_seq_len", 0) or engine_args.pop("max_model_len", 0)
    max_seq_len = max_seq_len or config.get("max_position_embeddings", config.get("n_positions", 0))
    if on_hub and not (max_seq_len or deployment.values.get("max_seq_len")):
        raise RepositoryError(
            f"there is no folder {model_dir} to tell how many tokens a sequence may have; if it "
            "is a model on the hub, set max_seq_len, and --tokenizer-dir to its tokenizer's folder"
        )
    return {
        **{
            name: UPSTREAM[name].default
            for name in ("triton_max_batch_size", "preprocessing_instance_count")
        },
        "engine": deployment.engine,
        "stream_key": "tensor",  # which every Python engine hands on
        "model_dir": str(model_dir),
        "tokenizer_dir": _tokenizer_value(deployment),
        "tokenizer_type": deployment.tokenizer_type,
        "template": deployment.template,
        "max_seq_len": str(max_seq_len or ""),
        "llm_args": json.dumps(llm_args) if llm_args else "",
        "engine_args": json.dumps(engine_args) if engine_args else "",
        "engine_instance_count": "1",
        **deployment.values,
    }


def write(
    rendered: Mapping[str, str],
    output: Path,
    *,
    force: bool = False,
    copies: Mapping[str, Path] | None = None,
    verify: Callable[[Path], Iterable[object]] = lambda repository: (),
) -> None:
    """Write a rendered repository: the whole new one appears at once, or nothing changes.

    Args:
        rendered: from `render`.
        output: the folder to make.
        force: replace what an earlier `write` made there; files of others in it stay.
        copies: relative path -> file to copy there.
        verify: gives the problems of the repository before it is put in place.

    Raises:
        RepositoryError: *output* exists and may not be replaced, or there are problems.
    """
    output = output.absolute()
    copies = copies or {}
    there = output.exists() and (any(output.iterdir()) if output.is_dir() else True)
    if there:
        if not (output / _MARK).is_file():
            raise RepositoryError(
                f"{output} exists and was not made by this command; choose another folder"
            )
        if not force:
            raise RepositoryError(f"{output} exists; replace it with --force")
    with staging(output) as new:
        if there:
            copy_tree(output, new)
            _remove_ours(new)
        for relative, text in {**rendered, _MARK: "\n".join([*rendered, *copies])}.items():
            path = new / relative
            if path.exists() or path.is_symlink():
                raise RepositoryError(
                    f"{output / relative} was not made by this command; move it away"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for relative, source in copies.items():
            (new / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, new / relative)
        if problems := [str(problem) for problem in verify(new)]:
            raise RepositoryError("\n".join(problems).replace(str(new), str(output)))
        put_in_place(new, output)


def _remove_ours(repository: Path) -> None:
    mark = repository / _MARK
    for relative in mark.read_text(encoding="utf-8").splitlines():
        path = repository / relative
        path.unlink(missing_ok=True)
        for folder in list(Path(relative).parents)[:-1]:
            with contextlib.suppress(OSError):  # somebody else has files there
                (repository / folder).rmdir()
    mark.unlink()
