"""An existing TensorRT-LLM repository -> ours: new text models, same engine, same clients."""

from __future__ import annotations

import difflib
import time
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.memory.engine_folder import read_sizes
from trt_tokenizers.repository.atomic_replace import copy_tree, put_in_place, staging
from trt_tokenizers.repository.check import check
from trt_tokenizers.repository.ensemble import derived_parameters, parameters, set_parameters, wire
from trt_tokenizers.repository.pbtxt import format_config, parse_config
from trt_tokenizers.repository.placeholders import PLACEHOLDER
from trt_tokenizers.repository.skeleton import skeleton, skeleton_configs
from trt_tokenizers.tokenizers.registry import GROUP as TOKENIZERS

_TEXT = ("preprocessing", "postprocessing")


@dataclass(frozen=True)
class Adoption:
    """What `plan_adoption` found to do.

    Attributes:
        files: relative path -> (text before, text after); empty text: no such file.
        notes: what a person should know, one line each.
    """

    files: dict[str, tuple[str, str]]
    notes: tuple[str, ...]

    @property
    def diff(self) -> str:
        """A unified diff; empty if nothing changes."""
        return "".join(
            line
            for path, (before, after) in self.files.items()
            for line in difflib.unified_diff(
                before.splitlines(keepends=True), after.splitlines(keepends=True),
                f"a/{path}", f"b/{path}",
            )
        )  # fmt: skip


def plan_adoption(repository: Path) -> Adoption:
    """What has to change in *repository*. Touches nothing.

    Raises:
        RepositoryError: it is no filled repository of TensorRT-LLM's ensemble, or has what ours
            cannot do.
    """
    configs = {name: _read(repository / name / "config.pbtxt") for name in ("ensemble", *_TEXT)}
    engine_name = _engine_name(repository, configs["ensemble"])
    engine = _read(repository / engine_name / "config.pbtxt")
    engine.name = engine_name
    if any(tensor.name == "stream_key" for tensor in engine.output):
        return Adoption({}, (f"{engine_name} is an engine of this package, with our models",))
    notes: list[str] = []
    ours = skeleton_configs()
    for name in ("ensemble", *_TEXT):
        ours[name].max_batch_size = configs[name].max_batch_size
    _set_parameters(ours, configs, engine, notes)
    _set_instances(ours, configs, notes)
    wired = wire(configs["ensemble"], engine, ours, str(repository / "ensemble/config.pbtxt"))
    wanted = {
        f"{name}/config.pbtxt": format_config(config, comment)
        for name, config, comment in (
            ("ensemble", wired.ensemble, "Text or messages in, exact text out."),
            ("preprocessing", wired.preprocessing, "Text or messages -> token ids."),
            (
                "postprocessing",
                wired.postprocessing,
                "One instance, no dynamic batching: a stream's chunks are decoded in their order.",
            ),
        )
    }
    wanted |= {
        path: text for path, text in skeleton() if path in [f"{n}/1/model.py" for n in _TEXT]
    }
    if (repository / "tensorrt_llm_bls").is_dir():
        notes.append(
            "tensorrt_llm_bls stays as it is; its clients get the same from the model ensemble"
        )
    before = {path: _text(repository / path) for path in wanted}
    files = {path: (before[path], text) for path, text in wanted.items() if before[path] != text}
    return Adoption(files, tuple(notes))


def adopt(repository: Path, adoption: Adoption, *, checked: bool = True) -> Path:
    """Make the changes, all at once, and give the folder where the old repository is kept.

    Args:
        checked: refuse what would not serve; what is wrong with the engine was so before.

    Raises:
        RepositoryError: the new repository would not serve, or the old one cannot be replaced;
            nothing has changed then.
    """
    repository = repository.resolve()
    backup = repository.with_name(f"{repository.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
    if backup.exists():
        raise RepositoryError(f"{backup} exists; move it away, or wait a second")
    with staging(repository) as new:
        copy_tree(repository, new)
        for path, (_, text) in adoption.files.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_text(text, encoding="utf-8")
        changed = {(new / path).parent for path in adoption.files}
        problems = [
            str(problem) for problem in check(new, engines=False) if problem.path.parent in changed
        ]
        if checked and problems:
            raise RepositoryError("\n".join(problems).replace(str(new), str(repository)))
        put_in_place(new, repository)
        new.rename(backup)
    return backup


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _read(path: Path) -> Any:
    """The configuration in *path*; placeholders in quotes may be left."""
    if not path.is_file():
        raise RepositoryError(
            f"{path} is missing; adopt takes a repository of TensorRT-LLM's ensemble, with the "
            "models ensemble, preprocessing, postprocessing and the engine"
        )
    text = path.read_text(encoding="utf-8")
    try:
        return parse_config(text)
    except ValueError as error:
        if left := PLACEHOLDER.search(text):
            raise RepositoryError(
                f"{path}:{text.count(chr(10), 0, left.start()) + 1}: {left[0]} was never filled; "
                f"fill it first: fill_template -i {path} {left[1]}:VALUE,…"
            ) from None
        raise RepositoryError(f"{path}: {error}; correct it") from None


def _engine_name(repository: Path, ensemble: Any) -> str:
    steps = [step.model_name for step in ensemble.ensemble_scheduling.step]
    others = [name for name in steps if name not in _TEXT]
    if len(others) != 1 or len(steps) != len(_TEXT) + 1:
        raise RepositoryError(
            f"{repository / 'ensemble/config.pbtxt'}: has the steps {', '.join(steps) or 'none'}; "
            "adopt takes ensembles of preprocessing, one engine and postprocessing"
        )
    return str(others[0])


def _set_parameters(
    ours: dict[str, Any], configs: dict[str, Any], engine: Any, notes: list[str]
) -> None:
    """Values that are filled stay; what is new gets the value that changes nothing for clients."""
    before, after = (parameters(configs[name]) for name in _TEXT)
    for name in ("visual_model_path", "multimodal_model_path"):
        if before.get(name):
            raise RepositoryError(
                f"preprocessing has {name} {before[name]!r}; images are not served by this "
                "package's preprocessing, keep this repository as it is"
            )
    for name, config in configs.items():
        left = [key for key, v in config.parameters.items() if "${" in v.string_value]
        if left:
            notes.append(f"{name}: {', '.join(left)} were never filled and get their defaults")
    kind = before.get("tokenizer_type", "")
    if kind and ":" not in kind and kind not in entry_points(group=TOKENIZERS).names:
        notes.append(f"tokenizer_type {kind!r} is not known here; transformers reads the folder")
        before["tokenizer_type"] = after["tokenizer_type"] = "transformers"
    words = {tensor.name: tensor for tensor in configs["ensemble"].input}.get("stop_words")
    sizes = read_sizes(Path(parameters(engine).get("gpt_model_path", "")))
    derived = {
        **derived_parameters(engine),
        **{name: str(size) for name, size in sizes.items()},
        "tokenizer_dir": before.get("tokenizer_dir") or after.get("tokenizer_dir", ""),
        "skip_special_tokens": after.get("skip_special_tokens", ""),
        # One string with commas, in the layouts whose word lists had to be sent.
        "word_lists": "csv" if words is not None and not words.optional else "list",
    }
    for name, found in (("preprocessing", before), ("postprocessing", after)):
        known = ours[name].parameters
        set_parameters(
            ours[name], {key: found.get(key) or derived.get(key, "") for key in sorted(known)}
        )
    if derived["exclude_input_in_output"] == "false" and "exclude_input_in_output" not in before:
        notes.append(
            "answers that do not stream begin with the prompt, as before; to leave it out, set "
            "exclude_input_in_output of preprocessing to true"
        )


def _set_instances(ours: dict[str, Any], configs: dict[str, Any], notes: list[str]) -> None:
    count = max(1, sum(max(1, group.count) for group in configs["preprocessing"].instance_group))
    ours["preprocessing"].instance_group[0].count = count
    if configs["preprocessing"].HasField("dynamic_batching"):
        notes.append(
            "preprocessing gets no dynamic_batching, which ends Triton after a long queue; "
            f"prompts are encoded side by side by more instances (count: {count})"
        )
    if sum(max(1, group.count) for group in configs["postprocessing"].instance_group) > 1:
        notes.append("postprocessing gets one instance: several mix the chunks of a stream up")
