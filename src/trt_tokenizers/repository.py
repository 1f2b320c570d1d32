"""A model repository: render it from the skeleton, then write it.

`render` touches nothing; `write` is the one function that does, all or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.fill import PLACEHOLDER, fill
from trt_tokenizers.pbtxt import format_config, parse_config, quoted
from trt_tokenizers.replacing import put_in_place, staging
from trt_tokenizers.settings import nearest
from trt_tokenizers.tokenizers.files import read_json

_MARK = ".trt-tokenizers"  # tells a repository that `write` made from anybody else's


@dataclass(frozen=True)
class Deployment:
    """What `generate` is asked for.

    Attributes:
        engine: name of a Python engine, or module:Class.
        model_dir: the model's folder, in Hugging Face's layout.
        tokenizer_dir: the tokenizer's folder; the model's if empty.
        values: placeholder -> value, over the defaults.
        outputs: of the ensemble, by name; empty: the skeleton's.
        engine_parameters: what the engine takes beside the skeleton's own parameters.
    """

    engine: str
    model_dir: Path
    tokenizer_dir: Path | None = None
    tokenizer_type: str = "auto"
    template: str = "auto"
    values: Mapping[str, str] = field(default_factory=dict)
    engine_parameters: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()


def render(deployment: Deployment) -> dict[str, str]:
    """Relative path -> text of every file of the repository.

    Raises:
        RepositoryError: a value is unknown or breaks a config; the model's folder is no model.
    """
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


#: Outputs that the ensemble may have beside the skeleton's: step, its output, dims; all int32.
_MORE_OUTPUTS = {
    "output_ids": ("postprocessing", "OUT_IDS", (-1, -1)),
    "batch_index": ("tensorrt_llm", "batch_index", (1,)),
    "sequence_index": ("tensorrt_llm", "sequence_index", (1,)),
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
        step, tensor, dims = _MORE_OUTPUTS[name]
        steps[step].output_map[tensor] = name
        config.output.add(name=name, data_type="TYPE_INT32", dims=dims)
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


def _values(deployment: Deployment) -> dict[str, str]:
    model_dir = deployment.model_dir.resolve()
    config = read_json(model_dir / "config.json")
    if not config:
        raise RepositoryError(
            f"{model_dir} holds no config.json; --model must be a Hugging Face model folder"
        )
    tokenizer_dir = (deployment.tokenizer_dir or model_dir).resolve()
    if not tokenizer_dir.is_dir():
        raise RepositoryError(
            f"tokenizer folder {tokenizer_dir} does not exist; set --tokenizer-dir"
        )
    max_seq_len = config.get("max_position_embeddings", config.get("n_positions", 0))
    return {
        "triton_max_batch_size": "64",
        "preprocessing_instance_count": "1",
        "engine": deployment.engine,
        "stream_key": "tensor",  # which every Python engine hands on
        "model_dir": str(model_dir),
        "tokenizer_dir": str(tokenizer_dir),
        "tokenizer_type": deployment.tokenizer_type,
        "template": deployment.template,
        "max_seq_len": str(max_seq_len or ""),
        **deployment.values,
    }


def skeleton() -> Iterator[tuple[str, str]]:
    """Relative path and text of each of its files."""
    root = skeleton_dir()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name in ("config.pbtxt", "model.py", ".gitkeep"):
            yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def skeleton_configs() -> dict[str, Any]:
    """Its configurations as protobufs, by model, with every value left empty."""
    return {
        path.split("/")[0]: parse_config(fill(text, {}, path))
        for path, text in skeleton()
        if path.endswith(".pbtxt") and not path.startswith("tensorrt_llm/")
    }


def skeleton_dir() -> Path:
    """The skeleton: inside the installed wheel, or beside src/ in a checkout."""
    inside = Path(str(files("trt_tokenizers"))) / "model_repo_skeleton"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "model_repo_skeleton"


def write(
    rendered: Mapping[str, str],
    output: Path,
    *,
    force: bool = False,
    verify: Callable[[Path], Iterable[object]] = lambda repository: (),
) -> None:
    """Write a rendered repository: the whole new one appears at once, or nothing changes.

    Args:
        rendered: from `render`.
        output: the folder to make.
        force: replace a repository that an earlier `write` made there.
        verify: gives the problems of the repository before it is put in place.

    Raises:
        RepositoryError: *output* exists and may not be replaced, or there are problems.
    """
    output = output.absolute()
    if output.exists() and (any(output.iterdir()) if output.is_dir() else True):
        if not (output / _MARK).is_file():
            raise RepositoryError(
                f"{output} exists and was not made by this command; choose another folder"
            )
        if not force:
            raise RepositoryError(f"{output} exists; replace it with --force")
    with staging(output) as new:
        for relative, text in {**rendered, _MARK: ""}.items():
            path = new / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        if problems := [str(problem) for problem in verify(new)]:
            raise RepositoryError("\n".join(problems).replace(str(new), str(output)))
        put_in_place(new, output)
