"""Adopt an existing TensorRT-LLM repository: replace its text models, keep engine and clients."""

from __future__ import annotations

import contextlib
import difflib
import shutil
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.hf_config import read_text
from trt_tokenizers.memory.engine_folder import read_engine
from trt_tokenizers.repository.atomic_replace import copy_tree, put_in_place, resolve_links, staging
from trt_tokenizers.repository.check import check
from trt_tokenizers.repository.ensemble import (
    EnsembleBuilder,
    derived_parameters,
    parameters,
    set_parameters,
)
from trt_tokenizers.repository.pbtxt import format_config, parse_config
from trt_tokenizers.repository.problems import read_model_config
from trt_tokenizers.repository.skeleton import skeleton, skeleton_configs
from trt_tokenizers.settings import PLACEHOLDER
from trt_tokenizers.tokenizers.registry import GROUP as TOKENIZERS

_TEXT = ("preprocessing", "postprocessing")


@dataclass(frozen=True)
class Adoption:
    """The changes that `plan_adoption` proposes.

    Attributes:
        files: relative path -> (old text, new text); an empty old text means a new file.
        notes: information for the user, one line each.
    """

    files: dict[str, tuple[str, str]]
    notes: tuple[str, ...]

    @property
    def diff(self) -> str:
        """A unified diff; empty if nothing changes."""
        return "".join(
            line
            for path, (old, new) in self.files.items()
            for line in difflib.unified_diff(
                old.splitlines(keepends=True), new.splitlines(keepends=True),
                f"a/{path}", f"b/{path}",
            )
        )  # fmt: skip


def plan_adoption(repository: Path) -> Adoption:
    """Determine the changes to *repository* without making them.

    Raises:
        RepositoryError: it is not a filled repository of TensorRT-LLM's ensemble, or it uses a
            feature that our models lack.
    """
    configs = {name: _read(repository / name / "config.pbtxt") for name in ("ensemble", *_TEXT)}
    engine = engine_config(repository)
    if any(tensor.name == "stream_key" for tensor in engine.output):
        return Adoption({}, (f"{engine.name} is an engine of this package, with our models",))
    notes: list[str] = []
    ours = skeleton_configs()
    for name in ("ensemble", *_TEXT):
        ours[name].max_batch_size = configs[name].max_batch_size
    _set_parameters(ours, configs, engine, notes)
    _set_instances(ours, configs, notes)
    where = str(repository / "ensemble/config.pbtxt")
    new_texts = EnsembleBuilder(configs["ensemble"], engine, ours, where).build()
    new_texts |= {
        path: text for path, text in skeleton() if path in [f"{n}/1/model.py" for n in _TEXT]
    }
    if (repository / "tensorrt_llm_bls").is_dir():
        notes.append(
            "tensorrt_llm_bls does not change; its clients get the same from the model ensemble"
        )
        for name in _TEXT:  # it names tensors that ours does not make, and Triton must know them
            path = f"{name}/config.pbtxt"
            new_texts[path] = _with_tensors_of(new_texts[path], configs[name])
    old_texts = {path: _text(repository / path) for path in new_texts}
    files = {p: (old_texts[p], text) for p, text in new_texts.items() if old_texts[p] != text}
    return Adoption(files, tuple(notes))


def engine_config(repository: Path) -> Any:
    """The configuration of the ensemble's engine model, with its name.

    Raises:
        RepositoryError: a file is missing, or the ensemble has other steps.
    """
    name = _engine_name(repository, _read(repository / "ensemble" / "config.pbtxt"))
    engine = _read(repository / name / "config.pbtxt")
    engine.name = name
    return engine


def problems(repository: Path, adoption: Adoption) -> list[str]:
    """What would keep the adopted repository from serving: one line each.

    The changed files are checked in a scratch folder. Problems of the engine do not count, because
    they existed before.
    """
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder)
        changed = {Path(path).parts[0] for path in adoption.files}
        for path in repository.iterdir():
            if path.name in changed:
                shutil.copytree(path, new / path.name, copy_function=_link)
            else:
                _link(path, new / path.name)
        for relative, (_, text) in adoption.files.items():
            (new / relative).parent.mkdir(parents=True, exist_ok=True)
            (new / relative).unlink(missing_ok=True)
            (new / relative).write_text(text, encoding="utf-8")
        return [
            f"{repository / p.path.relative_to(new)}: as adopt would write it, {p.what}".replace(
                str(new), str(repository)
            )
            for p in check(new, engines=False)
            if p.path.parent.name in changed
        ]


def adopt(repository: Path, adoption: Adoption) -> tuple[Path, Path]:
    """Make all changes at once; return the folder that keeps the old repository, and the file with
    the diff beside it.

    A symbolic link in the way of a changed file becomes a copy of what it points to.

    Raises:
        RepositoryError: the old repository has changed meanwhile or cannot be replaced. Nothing has
            changed then.
    """
    repository = repository.resolve()
    backup = repository.with_name(f"{repository.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
    with staging(repository) as new:
        if backup.exists():
            raise RepositoryError(f"{backup} exists; move it away, or wait a second")
        copy_tree(repository, new)
        for path, (old, text) in adoption.files.items():
            if _text(repository / path) != old:
                raise RepositoryError(f"{repository / path} has changed meanwhile; run adopt again")
            target = resolve_links(new, path)
            target.unlink(missing_ok=True)  # maybe a hard link
            target.write_text(text, encoding="utf-8")
        put_in_place(new, repository)
        new.rename(backup)
        diff = backup.with_name(backup.name.replace(".before-", ".adopted-") + ".diff")
        diff.write_text(adoption.diff, encoding="utf-8")
    return backup, diff


def _link(path: str | Path, link: str | Path) -> None:
    Path(link).symlink_to(Path(path).resolve())


def _text(path: Path) -> str:
    return read_text(path) if path.exists() else ""


def _read(path: Path) -> Any:
    """The configuration in *path*. It may hold placeholders inside quotes."""
    if not path.exists():
        raise RepositoryError(
            f"{path} is missing; adopt needs a repository of TensorRT-LLM's ensemble, with the "
            "models ensemble, preprocessing, postprocessing and the engine"
        )
    return read_model_config(path)


def _with_tensors_of(text: str, old: Any) -> str:
    """The configuration in *text*, with the tensors of *old* that it lacks, inputs optional."""
    comment, config = text.partition("\n")[0].removeprefix("# "), parse_config(text)
    for tensors, old_tensors in ((config.input, old.input), (config.output, old.output)):
        present = {tensor.name for tensor in tensors}
        for tensor in old_tensors:
            if tensor.name not in present:
                tensors.add().CopyFrom(tensor)
                if tensors is config.input:
                    tensors[-1].optional = True
    return format_config(config, comment)


def _engine_name(repository: Path, ensemble: Any) -> str:
    steps = [step.model_name for step in ensemble.ensemble_scheduling.step]
    others = [name for name in steps if name not in _TEXT]
    if len(others) != 1 or len(steps) != len(_TEXT) + 1:
        raise RepositoryError(
            f"{repository / 'ensemble/config.pbtxt'}: has the steps {', '.join(steps) or 'none'}; "
            "adopt needs an ensemble of preprocessing, one engine and postprocessing"
        )
    return str(others[0])


def _set_parameters(
    ours: dict[str, Any], configs: dict[str, Any], engine: Any, notes: list[str]
) -> None:
    """Keep filled values. Give new parameters the value that changes nothing for clients."""
    preprocessing, postprocessing = (parameters(configs[name]) for name in _TEXT)
    for name in ("visual_model_path", "multimodal_model_path"):
        if preprocessing.get(name):
            raise RepositoryError(
                f"preprocessing has {name} {preprocessing[name]!r}, and our preprocessing does not "
                "serve images; keep this repository"
            )
    for name, config in configs.items():
        unfilled = [
            key for key, v in config.parameters.items() if PLACEHOLDER.fullmatch(v.string_value)
        ]
        if unfilled:
            notes.append(f"{name}: no value for {', '.join(unfilled)}; the defaults are used")
    kind = preprocessing.get("tokenizer_type", "")
    if kind and ":" not in kind and kind not in entry_points(group=TOKENIZERS).names:
        notes.append(f"tokenizer_type {kind!r} is unknown; transformers is used instead")
        preprocessing["tokenizer_type"] = postprocessing["tokenizer_type"] = "transformers"
    words = {tensor.name: tensor for tensor in configs["ensemble"].input}.get("stop_words")
    engine_dir = parameters(engine).get("gpt_model_path", "")
    sizes: dict[str, int] = {}
    with contextlib.suppress(RepositoryError):  # the folder may be on the server only
        sizes = read_engine(Path(engine_dir)).sizes if engine_dir else {}
    derived = {
        **derived_parameters(engine),
        **{name: str(size) for name, size in sizes.items()},
        "tokenizer_dir": preprocessing.get("tokenizer_dir")
        or postprocessing.get("tokenizer_dir", ""),
        "skip_special_tokens": postprocessing.get("skip_special_tokens", ""),
        # Where word lists were required, clients send one comma-separated string.
        "word_lists": "csv" if words is not None and not words.optional else "list",
    }
    for name, values in (("preprocessing", preprocessing), ("postprocessing", postprocessing)):
        names = sorted(ours[name].parameters)
        set_parameters(ours[name], {key: values.get(key) or derived.get(key, "") for key in names})
    excludes = derived["exclude_input_in_output"] == "true"
    if not excludes and "exclude_input_in_output" not in preprocessing:
        notes.append(
            "answers that are not streamed begin with the prompt, as before; to omit it, set "
            "exclude_input_in_output of preprocessing to true"
        )


def _set_instances(ours: dict[str, Any], configs: dict[str, Any], notes: list[str]) -> None:
    count = max(1, sum(max(1, group.count) for group in configs["preprocessing"].instance_group))
    ours["preprocessing"].instance_group[0].count = count
    if configs["preprocessing"].HasField("dynamic_batching"):
        notes.append(
            "preprocessing loses dynamic_batching, which crashes Triton after a long queue; use "
            f"more instances to encode prompts in parallel (count: {count})"
        )
    if sum(max(1, group.count) for group in configs["postprocessing"].instance_group) > 1:
        notes.append("postprocessing gets one instance; several would mix the chunks of a stream")
