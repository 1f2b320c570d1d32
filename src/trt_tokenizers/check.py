"""A model repository, checked without a server: what would keep the ensemble from serving."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_tokenizers.engines.base import ENGINES
from trt_tokenizers.errors import EngineError, TrtTokenizersError
from trt_tokenizers.fill import PLACEHOLDER
from trt_tokenizers.pbtxt import parse_config
from trt_tokenizers.plugins import find_plugin
from trt_tokenizers.postprocess import PostprocessingSettings
from trt_tokenizers.preprocess import PreprocessingSettings
from trt_tokenizers.settings import nearest, parse
from trt_tokenizers.templates.render import load as load_template
from trt_tokenizers.tokenizers.registry import create

MODELS = ("ensemble", "preprocessing", "tensorrt_llm", "postprocessing")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where (file:line), what, and the mend."""

    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def check(repository: Path) -> list[Problem]:
    """Everything that would keep the ensemble from serving, found without a server."""
    if not repository.is_dir():
        return [Problem(repository, 1, "does not exist; make it with: trt-tokenizers generate")]
    problems: list[Problem] = []
    configs: dict[str, Any] = {}
    for name in MODELS:
        path = repository / name / "config.pbtxt"
        if not path.is_file():
            problems.append(Problem(path, 1, f"is missing; the ensemble needs the model {name!r}"))
            continue
        text = path.read_text(encoding="utf-8")
        left = [
            Problem(path, number, f"{match[0]} was never filled; give it a value")
            for number, line in enumerate(text.splitlines(), 1)
            for match in PLACEHOLDER.finditer(line)
        ]
        problems += left
        if left:
            continue
        try:
            configs[name] = parse_config(text)
        except ValueError as error:
            line = re.search(r"(\d+):\d+", str(error))
            problems.append(Problem(path, int(line[1]) if line else 1, f"{error}; correct it"))
    if "ensemble" in configs:
        problems += _Wiring(repository / "ensemble" / "config.pbtxt", configs).problems()
    if "postprocessing" in configs:
        path = repository / "postprocessing" / "config.pbtxt"
        problems += _check_order(path, configs["postprocessing"])
    problems += _check_settings(repository, configs)
    if "tensorrt_llm" in configs:
        path = repository / "tensorrt_llm" / "config.pbtxt"
        problems += _check_engine(path, configs["tensorrt_llm"])
    return problems


class _Wiring:
    """Every map of the ensemble names tensors that exist, of one type, and none is missing."""

    def __init__(self, path: Path, configs: Mapping[str, Any]) -> None:
        self._path = path
        self._configs = configs
        self._types = {tensor.name: tensor.data_type for tensor in configs["ensemble"].input}

    def problems(self) -> Iterator[Problem]:
        ensemble = self._configs["ensemble"]
        for step in ensemble.ensemble_scheduling.step:
            if step.model_name in self._configs:
                yield from self._step(step, self._configs[step.model_name])
            elif step.model_name not in MODELS:  # a missing config was reported already
                yield self._problem(
                    step.model_name,
                    f"step {step.model_name!r} is no model of the ensemble"
                    f"{nearest(step.model_name, MODELS)}; correct model_name",
                )
        for tensor in ensemble.output:
            if tensor.name not in self._types:
                yield self._problem(
                    tensor.name,
                    f"output {tensor.name!r} comes from no step; add it to an output_map",
                )
            elif self._types[tensor.name] != tensor.data_type:
                yield self._problem(
                    tensor.name,
                    f"output {tensor.name!r} has another data_type than the step that makes it; "
                    "make them equal",
                )

    def _step(self, step: Any, model: Any) -> Iterator[Problem]:
        inputs = {tensor.name: tensor for tensor in model.input}
        outputs = {tensor.name: tensor.data_type for tensor in model.output}
        for name, source in step.input_map.items():
            if name not in inputs:
                what = (
                    f"model {model.name!r} has no input {name!r}{nearest(name, inputs)}; "
                    "correct the input_map"
                )
                yield self._problem(name, what)
            elif source not in self._types:
                what = f"{source!r} comes from nowhere{nearest(source, self._types)}"
                yield self._problem(source, f"{what}; correct the input_map")
            elif self._types[source] != inputs[name].data_type:
                what = f"{source!r} has another data_type than the input {name!r} of {model.name!r}"
                yield self._problem(source, f"{what}; make them equal")
        for name, tensor in inputs.items():
            if name not in step.input_map and not tensor.optional:
                what = f"model {model.name!r} needs the input {name!r}; add it to the input_map"
                yield self._problem(step.model_name, what)
        for name, target in step.output_map.items():
            if name in outputs:
                self._types[target] = outputs[name]
            else:
                what = f"model {model.name!r} has no output {name!r}{nearest(name, outputs)}"
                yield self._problem(name, f"{what}; correct the output_map")

    def _problem(self, name: str, what: str) -> Problem:
        """A problem on the first line that names *name*."""
        return Problem(self._path, _line_of(self._path, f'"{name}"'), what)


def _check_settings(repository: Path, configs: Mapping[str, Any]) -> Iterator[Problem]:
    """Settings have known names and good values; the tokenizer and the template load."""
    for name, cls in (
        ("preprocessing", PreprocessingSettings),
        ("postprocessing", PostprocessingSettings),
    ):
        if name not in configs:
            continue
        path = repository / name / "config.pbtxt"
        raw = {k: v.string_value for k, v in configs[name].parameters.items()}
        try:
            settings = parse(cls, raw, f"model {name!r}")
            tokenizer = create(settings)
            if isinstance(settings, PreprocessingSettings):
                load_template(settings.template, tokenizer.chat_template)
        except TrtTokenizersError as error:
            yield Problem(path, _parameter_line(path, str(error), raw), str(error))


def _check_order(path: Path, config: Any) -> Iterator[Problem]:
    """Nothing may let one chunk of a stream overtake another."""
    groups = config.instance_group
    if not groups:
        yield Problem(
            path,
            1,
            "without an instance_group Triton starts one instance per GPU, which mix the chunks "
            "of a stream up; add instance_group [ { count: 1 kind: KIND_CPU } ]",
        )
    if sum(max(1, group.count) * max(1, len(group.gpus)) for group in groups) > 1:
        yield Problem(
            path,
            _line_of(path, "count"),
            "several instances decode the chunks of one stream side by side and mix them up; "
            "set count: 1",
        )
    batching = config.dynamic_batching
    if config.HasField("dynamic_batching") and not batching.preserve_ordering:
        yield Problem(
            path,
            _line_of(path, "dynamic_batching"),
            "dynamic batching lets chunks overtake each other, from Triton 25.06 on; "
            "remove it, or set preserve_ordering: true",
        )


def _check_engine(path: Path, config: Any) -> Iterator[Problem]:
    """The engine exists and takes its settings; nothing is loaded."""
    raw = {k: v.string_value for k, v in config.parameters.items() if v.string_value}
    name = raw.pop("engine", "")
    raw.pop("max_tokens_per_chunk", None)
    if config.backend != "python" or ":" in name:
        return  # somebody else's engine, which may be importable in the server only
    try:
        if not name:
            raise EngineError("parameter 'engine' has no value; it must name an engine")
        engine: Any = find_plugin(ENGINES, name, "engine", EngineError)
        engine.check(raw)
    except TrtTokenizersError as error:
        yield Problem(path, _parameter_line(path, str(error), {"engine": name, **raw}), str(error))


def _parameter_line(path: Path, message: str, raw: Mapping[str, str]) -> int:
    """The line of the parameter that *message* names, or 1."""
    named = next((key for key in raw if f"{key!r}" in message or f"{key} " in message), None)
    return 1 if named is None else _line_of(path, f'key: "{named}"')


def _line_of(path: Path, needle: str) -> int:
    """The first line of the file with *needle* in it, or 1."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((number for number, line in enumerate(lines, 1) if needle in line), 1)
