"""Generate a model repository: `render` its files from the skeleton, then `write` them.

Only `write` changes the file system. It writes everything or nothing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.hf_config import read_json, read_text
from trt_tokenizers.repository.atomic_replace import copy_tree, inside, put_in_place, staging
from trt_tokenizers.repository.ensemble import set_parameters
from trt_tokenizers.repository.outputs import with_outputs
from trt_tokenizers.repository.pbtxt import format_config, parse_config
from trt_tokenizers.repository.placeholders import fill
from trt_tokenizers.repository.settings_reference import engine_settings
from trt_tokenizers.repository.skeleton import skeleton
from trt_tokenizers.repository.tensorrtllm_backend import CPP_BACKEND, render_tensorrtllm
from trt_tokenizers.settings import MODEL_DIRECTORY, PLACEHOLDER, nearest, parse
from trt_tokenizers.streams.stream_key import StreamKeyTransport
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.files import SMALL_FILES
from trt_tokenizers.tokenizers.registry import create

#: Engine that loads models from the hub -> option with its arguments, field, maximum length.
_HUB = {
    "llmapi": ("--llm-arg", "llm_args", "max_seq_len"),
    "vllm": ("--engine-arg", "engine_args", "max_model_len"),
}
#: Lists the files that `write` made. Its presence marks a repository of this command.
_MARKER = ".trt-tokenizers"
_COPIED_TOKENIZER = "preprocessing/1/tokenizer"
#: Copied for tokenizer types that do not declare their files.
_VOCABULARY_FILES = (
    "tokenizer*", "merges.txt", "vocab.json", "encoder.json", "vocab.bpe", "*.model", "*.tiktoken",
    "tekken*.json", "tokenization_*.py",
)  # fmt: skip


@dataclass(frozen=True)
class GenerateOptions:
    """The options of `generate`.

    Attributes:
        engine: name of a Python engine, module:Class, or tensorrtllm for the C++ backend.
        model_dir: the Hugging Face folder of the model; not needed by the C++ backend.
        tokenizer_dir: the tokenizer's folder; default: model_dir.
        engine_dir: the engine's folder, for the C++ backend.
        version: of TensorRT-LLM; default: as the engine's folder says.
        copy_tokenizer: copy the tokenizer's files into the repository.
        values: placeholder -> value; replaces the default.
        outputs: names of the ensemble's outputs; default: the skeleton's.
        engine_parameters: parameters of the engine's model that the skeleton lacks.
        llm_args: arguments of TensorRT-LLM's LLM(), for the engine llmapi.
        engine_args: fields of vLLM's AsyncEngineArgs, for the engine vllm.
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


def render(options: GenerateOptions) -> dict[str, str]:
    """Relative path -> text of every file of the repository.

    Raises:
        RepositoryError: a value is unknown or invalid, or the model's folder is not a model.
        EngineError: the engine is unknown or does not import.
    """
    if options.engine == CPP_BACKEND:
        return _render_tensorrtllm(options)
    values = _values(options)
    texts = dict(skeleton())
    known = {name for text in texts.values() for name in PLACEHOLDER.findall(text)}
    rendered = {
        path: fill(text, values, path) if path.endswith(".pbtxt") else text
        for path, text in texts.items()
    }
    if options.outputs:
        path = "ensemble/config.pbtxt"
        rendered[path] = with_outputs(rendered[path], options.outputs)
    # A registered engine declares its parameters; the skeleton need not have them.
    declared = None if ":" in options.engine else engine_settings(options.engine)
    path = "tensorrt_llm/config.pbtxt"
    present = parse_config(rendered[path]).parameters
    own = [f.name for f in (fields(declared) if declared else ()) if f.name not in present]
    more = {**{name: values.get(name, "") for name in own}, **options.engine_parameters}
    if more:
        set_parameters(addition := parse_config(""), more)
        rendered[path] += format_config(addition)
    known.update(own)
    for name in options.values:
        if name not in known:
            raise RepositoryError(f"unknown value {name!r}{nearest(name, known)}; remove it")
    return rendered


def _render_tensorrtllm(options: GenerateOptions) -> dict[str, str]:
    if options.engine_dir is None:
        raise RepositoryError(
            f"the engine {CPP_BACKEND} has no folder; set --engine-dir to what its build made"
        )
    if options.engine_parameters or options.llm_args or options.engine_args or options.outputs:
        raise RepositoryError(
            "--engine-parameter, --llm-arg, --engine-arg and --outputs are for Python engines; "
            f"{CPP_BACKEND} has all outputs of its version, use --set for its parameters"
        )
    return render_tensorrtllm(
        options.engine_dir.absolute(), options.version, {**_text_values(options), **options.values}
    )


def _tokenizer_dir(options: GenerateOptions) -> Path:
    folder = options.tokenizer_dir or options.model_dir
    if folder is None:
        raise RepositoryError("the tokenizer has no folder; set --tokenizer-dir")
    if not folder.is_dir():
        raise RepositoryError(
            f"tokenizer folder {folder.absolute()} does not exist; set --tokenizer-dir"
        )
    return folder.resolve()


def _text_values(options: GenerateOptions) -> dict[str, str]:
    folder = _tokenizer_dir(options)
    copied = f"{MODEL_DIRECTORY}/../{_COPIED_TOKENIZER}"
    return {
        "tokenizer_dir": copied if options.copy_tokenizer else str(folder),
        "tokenizer_type": options.tokenizer_type,
        "template": options.template,
    }


def tokenizer_files(options: GenerateOptions) -> dict[str, Path]:
    """Relative path in the repository -> tokenizer file to copy; empty without copy_tokenizer.

    Only the files that this tokenizer type reads are copied.

    Raises:
        TokenizerError: the tokenizer does not load.
        SettingsError: a value of its settings has the wrong type.
    """
    if not options.copy_tokenizer:
        return {}
    folder = _tokenizer_dir(options)
    names = {setting.name for setting in fields(TokenizerSettings)}
    values = {name: value for name, value in options.values.items() if name in names and value}
    values |= {"tokenizer_dir": str(folder), "tokenizer_type": options.tokenizer_type}
    vocabulary = (
        create(parse(TokenizerSettings, values, "--set")).vocabulary_files or _VOCABULARY_FILES
    )
    return {
        f"{_COPIED_TOKENIZER}/{path.relative_to(folder)}": path
        for pattern in (*vocabulary, *SMALL_FILES)
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }


def _values(options: GenerateOptions) -> dict[str, str]:
    if options.model_dir is None:
        raise RepositoryError("the engine has no model; set --model to its folder")
    arguments: dict[str, dict[str, Any]] = {}
    max_seq_len = 0
    for engine, (option, name, length) in _HUB.items():
        arguments[name] = dict(getattr(options, name))
        if arguments[name] and options.engine != engine:
            raise RepositoryError(f"{option} is for the engine {engine}; remove it")
        max_seq_len = arguments[name].pop(length, 0) or max_seq_len
    on_hub = options.engine in _HUB and not options.model_dir.exists()
    model_dir = options.model_dir if on_hub else options.model_dir.resolve()
    config = read_json(model_dir / "config.json")
    if not (config or on_hub):
        raise RepositoryError(
            f"{model_dir} holds no config.json; --model must be a Hugging Face model folder"
        )
    max_seq_len = max_seq_len or config.get("max_position_embeddings", config.get("n_positions", 0))
    if on_hub and not (max_seq_len or options.values.get("max_seq_len")):
        raise RepositoryError(
            f"there is no folder {model_dir}, so the maximum sequence length is unknown; for a "
            "model on the hub, set max_seq_len, and --tokenizer-dir to its tokenizer's folder"
        )
    return {
        "engine": options.engine,
        "stream_key": StreamKeyTransport.TENSOR.value,  # every Python engine returns it
        "model_dir": str(model_dir),
        **_text_values(options),
        "max_seq_len": str(max_seq_len or ""),
        **{name: json.dumps(given) if given else "" for name, given in arguments.items()},
        "engine_instance_count": "1",
        **options.values,
    }


def write(
    rendered: Mapping[str, str],
    output: Path,
    *,
    force: bool = False,
    copies: Mapping[str, Path] | None = None,
    verify: Callable[[Path], Iterable[object]] = lambda repository: (),
) -> None:
    """Write a rendered repository: the complete new one appears at once, or nothing changes.

    Args:
        rendered: the result of `render`.
        output: the folder to make.
        force: replace the files of an earlier `write`. Other files in the folder stay.
        copies: relative path -> file to copy there.
        verify: returns the problems of the new repository before it is put in place.

    Raises:
        RepositoryError: *output* exists and must not be replaced, or there are problems.
    """
    output = output.resolve()
    copies = copies or {}
    with staging(output) as new:
        if output.is_dir() and any(output.iterdir()):
            if not (output / _MARKER).is_file():
                raise RepositoryError(
                    f"{output} exists and was not made by this command; choose another folder"
                )
            if not force:
                raise RepositoryError(f"{output} exists; replace it with --force")
            copy_tree(output, new)
            _remove_earlier_files(new, output)
        elif output.exists() and not output.is_dir():
            raise RepositoryError(f"{output} is not a folder; choose another name")
        made: dict[str, str | Path] = {**rendered, **copies}
        for relative, content in {**made, _MARKER: "\n".join(made)}.items():
            path = inside(new, relative)
            if path.exists() or path.is_symlink():
                raise RepositoryError(
                    f"{output / relative} was not made by this command; move it away"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, path)
            else:
                path.write_text(content, encoding="utf-8")
        if problems := [str(problem) for problem in verify(new)]:
            raise RepositoryError("\n".join(problems).replace(str(new), str(output)))
        put_in_place(new, output)


def _remove_earlier_files(new: Path, output: Path) -> None:
    """Remove from *new*, a copy of *output*, what an earlier `write` made."""
    try:
        names = read_text(output / _MARKER).splitlines()
    except OSError as error:
        raise RepositoryError(
            f"{output / _MARKER}: {error.strerror}; choose another folder"
        ) from None
    for name in names:
        inside(output, name)
    for name in (*names, _MARKER):
        path = new / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        for folder in list(Path(name).parents)[:-1]:
            with contextlib.suppress(OSError):  # the folder has other files
                (new / folder).rmdir()
