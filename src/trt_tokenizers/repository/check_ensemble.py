"""Check the ensemble's maps: each entry must name existing tensors of the same type and shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.repository.problems import Problem
from trt_tokenizers.settings import nearest


class EnsembleChecker:
    """Finds errors that prevent Triton from loading an ensemble, and tensors that get lost.

    Args:
        path: the ensemble's config.pbtxt.
        configs: model -> ModelConfig, for the models whose files parse.
        models: all models of the ensemble.
    """

    def __init__(self, path: Path, configs: Mapping[str, Any], models: tuple[str, ...]) -> None:
        self._path = path
        self._configs = configs
        self._models = models
        self._tensors = {tensor.name: tensor for tensor in configs["ensemble"].input}
        self._made_by: dict[str, str] = {}  # tensor -> step
        self._unknown: set[str] = set()  # tensors of models whose files do not parse

    def problems(self) -> Iterator[Problem]:
        """All problems, step by step, then those of the ensemble's outputs and inputs."""
        ensemble = self._configs["ensemble"]
        for kind, tensors in (("input", ensemble.input), ("output", ensemble.output)):
            for name, count in Counter(tensor.name for tensor in tensors).items():
                if count > 1:
                    yield self._problem(
                        name, f"{kind} {name!r} is declared {count} times; keep one"
                    )
        for step in ensemble.ensemble_scheduling.step:
            if step.model_name in self._configs:
                yield from self._check_step(step, self._configs[step.model_name])
                continue
            self._unknown.update(step.output_map.values())
            if step.model_name not in self._models:  # `check` reports a missing file
                yield self._problem(
                    step.model_name,
                    f"step {step.model_name!r} is not a model of the ensemble"
                    f"{nearest(step.model_name, self._models)}; correct model_name",
                )
        for tensor in ensemble.output:
            source = self._tensors.get(tensor.name)
            if tensor.name in self._unknown:
                continue
            if source is None or tensor.name not in self._made_by:
                what = f"no step makes the output {tensor.name!r}; add it to an output_map"
                yield self._problem(tensor.name, what)
            else:
                maker = f"the step {self._made_by[tensor.name]!r} that makes it"
                yield from self._compare(tensor, source, f"output {tensor.name!r}", maker)
        read = {
            source for s in ensemble.ensemble_scheduling.step for source in s.input_map.values()
        }
        for tensor in ensemble.input:
            if tensor.name not in read:
                yield self._problem(
                    tensor.name,
                    f"no step reads the input {tensor.name!r}, so clients send it without effect; "
                    "add it to an input_map, or remove it",
                )

    def _check_step(self, step: Any, model: Any) -> Iterator[Problem]:
        inputs = {tensor.name: tensor for tensor in model.input}
        outputs = {tensor.name: tensor for tensor in model.output}
        for name, source in step.input_map.items():
            if name not in inputs:
                what = f"model {step.model_name!r} has no input {name!r}{nearest(name, inputs)}"
                yield self._problem(name, f"{what}; correct the input_map")
            elif source in self._unknown:
                continue
            elif source not in self._tensors:
                what = f"nothing makes {source!r}{nearest(source, self._tensors)}"
                yield self._problem(source, f"{what}; correct the input_map")
            else:
                reader = f"the input {name!r} of {step.model_name!r}"
                yield from self._compare(self._tensors[source], inputs[name], repr(source), reader)
        for name, tensor in inputs.items():
            if name not in step.input_map and not tensor.optional:
                what = f"model {step.model_name!r} needs the input {name!r}"
                yield self._problem(step.model_name, f"{what}; add it to the input_map")
        yield from self._check_decoupled_sources(step)
        for name, target in step.output_map.items():
            if name not in outputs:
                what = f"model {step.model_name!r} has no output {name!r}{nearest(name, outputs)}"
                yield self._problem(name, f"{what}; correct the output_map")
            elif target in self._tensors:
                what = f"{target!r} is made twice, the second time by {step.model_name!r}"
                yield self._problem(target, f"{what}; rename one of them")
            else:
                self._tensors[target] = outputs[name]
                self._made_by[target] = step.model_name

    def _check_decoupled_sources(self, step: Any) -> Iterator[Problem]:
        """Triton refuses a step that reads from a decoupled model and from another source."""
        makers = {source: self._made_by.get(source) for source in step.input_map.values()}
        for decoupled in sorted(filter(None, {*makers.values()})):
            others = [source for source, maker in makers.items() if maker != decoupled]
            if self._configs[decoupled].model_transaction_policy.decoupled and others:
                yield self._problem(
                    others[0],
                    f"step {step.model_name!r} reads {others[0]!r} and also outputs of the "
                    f"decoupled model {decoupled!r}, which Triton refuses; remove it from the "
                    "input_map",
                )
                return

    def _compare(self, tensor: Any, other: Any, what: str, other_what: str) -> Iterator[Problem]:
        dims, other_dims = list(tensor.dims), list(other.dims)
        if tensor.data_type != other.data_type:
            text = f"{what} has another data_type than {other_what}; make them equal"
            yield self._problem(tensor.name, text)
        elif not _compatible(dims, other_dims):
            text = f"{what} has dims {dims} and {other_what} {other_dims}; make them equal"
            yield self._problem(tensor.name, text)

    def _problem(self, name: str, what: str) -> Problem:
        return Problem.at(self._path, f'"{name}"', what)


def _compatible(dims: list[int], other: list[int]) -> bool:
    """Whether a tensor can have both shapes; -1 is any size."""
    if len(dims) != len(other):  # 0.5 declares its text, a list, as a matrix
        return all(size == -1 for size in dims + other)
    return all(a == b or -1 in (a, b) for a, b in zip(dims, other, strict=True))
