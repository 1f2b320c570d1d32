"""The reference of all settings: NVIDIA's placeholders and the parameters of our own models."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from typing import Any

from trt_tokenizers.engines.base import ENGINES
from trt_tokenizers.engines.serving_settings import ServingSettings
from trt_tokenizers.errors import EngineError, SettingsError
from trt_tokenizers.plugins import find_plugin
from trt_tokenizers.processing.postprocess import PostprocessingSettings
from trt_tokenizers.processing.preprocess import PreprocessingSettings
from trt_tokenizers.repository.nvidia_settings import NVIDIA_SETTINGS, Setting
from trt_tokenizers.repository.schemas import VERSIONS
from trt_tokenizers.repository.tensorrtllm_backend import CPP_BACKEND
from trt_tokenizers.settings import BOOL_WORDS, as_text, nearest, without_none

#: `Setting.engine` of the settings that every Python engine has.
_PYTHON_ENGINES = "Python engines"
#: A field of config.pbtxt, not a parameter.
_INSTANCES = Setting(
    "engine_instance_count",
    "int",
    "1",
    "number of engine instances, one process each; gpu_device_ids assigns their GPUs",
    ("tensorrt_llm",),
    engine=_PYTHON_ENGINES,
)
#: `Setting.engine` -> its part of the reference, if it is not an engine in Python.
_TITLES = {
    "": "Text: preprocessing and postprocessing",
    CPP_BACKEND: "TensorRT-LLM's C++ backend",
}
#: (model, parameter) -> its placeholder in the skeleton, if the name differs.
_PLACEHOLDERS = {("tensorrt_llm", "max_batch_size"): "engine_max_batch_size"}


def engine_settings(name: str) -> Any:
    """The dataclass with the parameters of a registered engine; None if it declares none.

    Raises:
        EngineError: the engine is unknown or does not import.
    """
    return getattr(find_plugin(ENGINES, name, "engine", EngineError), "settings_class", None)


def all_settings() -> list[Setting]:
    """Every setting, sorted by name. A setting of ours replaces NVIDIA's of the same name."""
    declared: list[tuple[str, Any, str]] = [
        ("preprocessing", PreprocessingSettings, ""),
        ("postprocessing", PostprocessingSettings, ""),
        ("tensorrt_llm", ServingSettings, _PYTHON_ENGINES),
    ]
    for name in sorted(entry_points(group=ENGINES).names):
        with contextlib.suppress(EngineError):  # `check` reports an engine that does not import
            declared.append(("tensorrt_llm", engine_settings(name), name))
    found = {(_INSTANCES.name, _INSTANCES.engine): _INSTANCES}
    for model, settings, engine in declared:
        for setting in _fields(model, settings, engine) if settings else ():
            key = setting.name, engine
            if key in found:  # two models have it
                found[key] = dataclasses.replace(found[key], models=(*found[key].models, model))
            else:
                found[key] = setting
    for name, theirs in NVIDIA_SETTINGS.items():
        ours = found.get((name, theirs.engine))
        found[name, theirs.engine] = theirs if ours is None else dataclasses.replace(
            ours, models=tuple(dict.fromkeys((*ours.models, *theirs.models))), since=theirs.since
        )  # fmt: skip
    return [found[key] for key in sorted(found)]


def _fields(model: str, settings: Any, engine: str) -> Iterable[Setting]:
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        hint = without_none(hints[field.name])
        yield Setting(
            name=_PLACEHOLDERS.get((model, field.name), field.name),
            type="string" if hint is str else str(hint.__name__),
            default="" if field.default is dataclasses.MISSING else as_text(field.default),
            meaning=field.metadata["help"],
            models=(model,),
            parameter=field.name,
            engine=engine,
        )


def find(names: Sequence[str]) -> list[Setting]:
    """The settings with these names or parameters; all settings if *names* is empty.

    Raises:
        SettingsError: a name is unknown; names the nearest one.
    """
    settings = all_settings()
    if not names:
        return settings
    known = {name for setting in settings for name in (setting.name, setting.parameter) if name}
    for name in names:
        if name not in known:
            raise SettingsError(
                f"unknown setting {name!r}{nearest(name, known)}; list all: trt-tokenizers settings"
            )
    return [s for s in settings if s.name in names or s.parameter in names]


def table(settings: Iterable[Setting]) -> str:
    """Text for a terminal: name, type, default and versions, then the meaning, then the models."""
    blocks = []
    for s in settings:
        head = f"{s.name}  ({s.type}{f', default {s.default}' if s.default else ''})"
        where = ", ".join(s.models) + (f"; {s.engine} only" if s.engine else "")
        if s.parameter and s.parameter != s.name:
            where += f"; parameter {s.parameter}"
        versions = f"  [TensorRT-LLM {_versions(s)}]" if s.since else ""
        blocks.append(f"{head}{versions}\n    {s.meaning}\n    in {where}")
    return "\n".join(blocks)


def _versions(setting: Setting) -> str:
    if setting.since == setting.until:
        return setting.since
    return f"{setting.since} … {setting.until}" if setting.until else f"since {setting.since}"


def markdown() -> str:
    """The text of docs/configuration.md."""
    groups: dict[str, list[str]] = {}
    for s in sorted(all_settings(), key=lambda s: (s.engine == CPP_BACKEND, s.engine != "")):
        where = ", ".join(s.models)
        if s.parameter and s.parameter != s.name:
            where += f" (parameter `{s.parameter}`)"
        if s.engine not in ("", _PYTHON_ENGINES, CPP_BACKEND):
            where += f" (engine {s.engine})"
        kind, meaning = (cell.replace("|", "\\|") for cell in (s.type, s.meaning))
        default = f"`{s.default}`" if s.default else ""
        title = _TITLES.get(s.engine, "Engines in Python")
        groups.setdefault(title, []).append(
            f"| `{s.name}` | {kind} | {default} | {meaning} | {where} | {_versions(s)} |\n"
        )
    head = "| name | type | default | meaning | where | TensorRT-LLM |\n|---|---|---|---|---|---|\n"
    text = "".join(f"\n## {title}\n\n{head}{''.join(rows)}" for title, rows in groups.items())
    words = [", ".join(f"`{w}`" for w, is_true in BOOL_WORDS.items() if is_true is flag)
             for flag in (True, False)]  # fmt: skip
    return _PREFACE.format(true=words[0], false=words[1], versions=", ".join(VERSIONS)) + text


_PREFACE = """# Configuration

All settings of a model repository. `generate --set`, a deployment file and `fill_template` use
these names. Unless the table says otherwise, a setting is a key of the same name in `parameters` of
the model's `config.pbtxt`. An empty value selects the default. `trt-tokenizers settings` prints the
same list, with `--json` for programs.

Words for true and false, in any case: {true}; {false}.

The last column names the versions of NVIDIA's templates that have the setting. Surveyed versions
are {versions}. A setting without a version is this package's own.

This page is generated: `trt-tokenizers settings --markdown > docs/configuration.md`.
"""
