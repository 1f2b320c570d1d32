"""All settings in one place: NVIDIA's placeholders and the parameters of our own models."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from trt_tokenizers.engines.dispatcher import ServingSettings
from trt_tokenizers.engines.llmapi.settings import LlmApiSettings
from trt_tokenizers.engines.transformers.settings import TransformersSettings
from trt_tokenizers.engines.vllm.settings import VllmSettings
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.processing.postprocess import PostprocessingSettings
from trt_tokenizers.processing.preprocess import PreprocessingSettings
from trt_tokenizers.repository.nvidia_settings import UPSTREAM, Setting
from trt_tokenizers.settings import nearest

_OURS: tuple[tuple[str, Any, str], ...] = (
    ("preprocessing", PreprocessingSettings, ""),
    ("postprocessing", PostprocessingSettings, ""),
    ("tensorrt_llm", ServingSettings, "Python engines"),
    ("tensorrt_llm", TransformersSettings, "transformers"),
    ("tensorrt_llm", LlmApiSettings, "llmapi"),
    ("tensorrt_llm", VllmSettings, "vllm"),
)
#: A field of the file, and no parameter.
_INSTANCES = Setting(
    "engine_instance_count",
    "int",
    "1",
    "copies of the engine, one process each; gpu_device_ids says on which GPUs",
    ("tensorrt_llm",),
    engine="Python engines",
)
_ENGINES = ("transformers", "llmapi", "vllm")
#: Placeholders of the skeleton that are called otherwise than their parameter.
_PLACEHOLDERS = {("tensorrt_llm", "max_batch_size"): "engine_max_batch_size"}


def catalogue() -> list[Setting]:
    """Every setting, by name: ours, and those of NVIDIA's templates that are none of ours."""
    ours = {(_INSTANCES.name, _INSTANCES.engine): _INSTANCES}
    for model, settings, engine in _OURS:
        for made in _fields(model, settings, engine):
            earlier = ours.get((made.name, made.engine))
            if earlier is not None:
                made = dataclasses.replace(  # noqa: PLW2901 - one setting of two models
                    earlier, models=(*earlier.models, model)
                )
            ours[made.name, made.engine] = made
    for name, theirs in UPSTREAM.items():
        mine = ours.get((name, theirs.engine))
        if mine is not None:
            models = tuple(dict.fromkeys((*mine.models, *theirs.models)))
            theirs = dataclasses.replace(  # noqa: PLW2901 - theirs and ours
                mine, models=models, since=theirs.since
            )
        ours[name, theirs.engine] = theirs
    return [ours[key] for key in sorted(ours)]


def _fields(model: str, settings: Any, engine: str) -> Iterable[Setting]:
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        missing = field.default is dataclasses.MISSING
        yield Setting(
            name=_PLACEHOLDERS.get((model, field.name), field.name),
            type=_type_name(hints[field.name]),
            default="" if missing or field.default is None else _text(field.default),
            meaning=field.metadata["help"],
            models=(model,),
            parameter=field.name,
            engine=engine,
        )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type_name(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not types.NoneType)
    return "string" if hint is str else str(hint.__name__)


def find(names: Sequence[str]) -> list[Setting]:
    """The settings with these names; all if there are none.

    Raises:
        SettingsError: one is unknown; names the nearest.
    """
    everything = catalogue()
    if not names:
        return everything
    known = {name for setting in everything for name in (setting.name, setting.parameter) if name}
    for name in names:
        if name not in known:
            raise SettingsError(
                f"unknown setting {name!r}{nearest(name, known)}; list all: trt-tokenizers settings"
            )
    wanted = set(names)
    return [s for s in everything if s.name in wanted or s.parameter in wanted]


def as_dict(setting: Setting) -> dict[str, Any]:
    """For JSON."""
    return dataclasses.asdict(setting)


def table(settings: Iterable[Setting]) -> str:
    """Lines for a terminal: name, type, default, versions, models, then the meaning below."""
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


_GROUPS = (
    ("Text: preprocessing and postprocessing", lambda s: not s.engine),
    ("Engines in Python", lambda s: s.engine in ("Python engines", *_ENGINES)),
    ("TensorRT-LLM's C++ backend", lambda s: s.engine == "tensorrtllm"),
)


def markdown() -> str:
    """docs/configuration.md."""
    text = [_PREFACE]
    for title, belongs in _GROUPS:
        text.append(
            f"\n## {title}\n\n| name | type | default | meaning | where | TensorRT-LLM |\n"
            "|---|---|---|---|---|---|\n"
        )
        for s in catalogue():
            if not belongs(s):
                continue
            where = ", ".join(s.models)
            if s.parameter and s.parameter != s.name:
                where += f" (parameter `{s.parameter}`)"
            if s.engine in _ENGINES:
                where += f" (engine {s.engine})"
            kind, meaning = (cell.replace("|", "\\|") for cell in (s.type, s.meaning))
            default = f"`{s.default}`" if s.default else ""
            text.append(
                f"| `{s.name}` | {kind} | {default} | {meaning} | {where} | {_versions(s)} |\n"
            )
    return "".join(text)


_PREFACE = """# Configuration

Every value that a model repository can hold, by the name under which `generate --set`, a deployment
file and `fill_template` take it. It stands in `parameters` of the model's `config.pbtxt` under the
same name, if no other is said, or is a field of the file. An empty value is the default. The same
list: `trt-tokenizers settings`, with `--json` for programs.

The last column says in which of NVIDIA's templates it was found: 0.5, 0.11, 0.17 and 1.2 were
looked at. Settings without an entry are this package's own.

This page is made from the code: `trt-tokenizers settings --markdown > docs/configuration.md`.
"""
