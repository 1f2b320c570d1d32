"""The ensemble's maps: every one names tensors that exist, of one type and shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.repository.problems import Problem, line_of
from trt_tokenizers.settings import nearest


class EnsembleChecker:
    """Finds what keeps Triton from loading an ensemble, or a tensor from arriving."""

    def __init__(self, path: Path, configs: Mapping[str, Any], models: tuple[str, ...]) -> None:
        """
        Args:
            path: the ensemble's config.pbtxt.
            configs: model -> ModelConfig, of those that parse.
            models: that the repository should have.
        """
        self._path = path
        self._configs = configs
        self._models = models
        self._tensors = {tensor.name: tensor for tensor in configs["ensemble"].input}
        self._made_by: dict[str, str] = {}
        self._unknown: set[str] = set()  # made by models whose files do not parse

    def problems(self) -> Iterator[Problem]:
        ensemble = self._configs["ensemble"]
        yield from self._doubles(ensemble)
        for step in ensemble.ensemble_scheduling.step:
            if step.model_name in self._configs:
                yield from self._step(step, self._configs[step.model_name])
                continue
            self._unknown.update(step.output_map.values())
            if step.model_name not in self._models:  # a missing config was reported already
                yield self._problem(
                    step.model_name,
                    f"step {step.model_name!r} is no model of the ensemble"
                    f"{nearest(step.model_name, self._models)}; correct model_name",
                )
        for tensor in ensemble.output:
            made = self._tensors.get(tensor.name)
            if tensor.name in self._unknown:
                continue
            if made is None or tensor.name not in self._made_by:
                yield self._problem(
                    tensor.name,
                    f"output {tensor.name!r} comes from no step; add it to an output_map",
                )
            else:
                maker = f"the step {self._made_by[tensor.name]!r} that makes it"
                yield from self._different(tensor, made, f"output {tensor.name!r}", maker)
        read = {
            source for s in ensemble.ensemble_scheduling.step for source in s.input_map.values()
        }
        for tensor in ensemble.input:
            if tensor.name not in read:
                yield self._problem(
                    tensor.name,
                    f"no step reads the input {tensor.name!r}, clients would send it in vain; add "
                    "it to an input_map, or remove it",
                )

    def _doubles(self, ensemble: Any) -> Iterator[Problem]:
        for kind, there in (("input", ensemble.input), ("output", ensemble.output)):
            names = [tensor.name for tensor in there]
            for name in dict.fromkeys(names):
                if names.count(name) > 1:
                    what = f"{kind} {name!r} is declared {names.count(name)} times; keep one"
                    yield self._problem(name, what)

    def _step(self, step: Any, model: Any) -> Iterator[Problem]:
        inputs = {tensor.name: tensor for tensor in model.input}
        outputs = {tensor.name: tensor for tensor in model.output}
        for name, source in step.input_map.items():
            if name not in inputs:
                yield self._problem(
                    name,
                    f"model {step.model_name!r} has no input {name!r}{nearest(name, inputs)}; "
                    "correct the input_map",
                )
            elif source in self._unknown:
                continue
            elif source not in self._tensors:
                what = f"{source!r} comes from nowhere{nearest(source, self._tensors)}"
                yield self._problem(source, f"{what}; correct the input_map")
            else:
                yield from self._different(
                    self._tensors[source], inputs[name], repr(source),
                    f"the input {name!r} of {step.model_name!r}",
                )  # fmt: skip
        for name, tensor in inputs.items():
            if name not in step.input_map and not tensor.optional:
                what = (
                    f"model {step.model_name!r} needs the input {name!r}; add it to the input_map"
                )
                yield self._problem(step.model_name, what)
        yield from self._mixed(step)
        for name, target in step.output_map.items():
            if name not in outputs:
                what = f"model {step.model_name!r} has no output {name!r}{nearest(name, outputs)}"
                yield self._problem(name, f"{what}; correct the output_map")
            elif target in self._tensors:
                what = f"{target!r} is made twice, by {step.model_name!r} too"
                yield self._problem(target, f"{what}; give one of them another name")
            else:
                self._tensors[target] = outputs[name]
                self._made_by[target] = step.model_name

    def _mixed(self, step: Any) -> Iterator[Problem]:
        """Triton refuses a step whose inputs come from a decoupled model and from elsewhere."""
        makers = {self._made_by.get(source, "") for source in step.input_map.values()}
        decoupled = [
            maker
            for maker in sorted(makers)
            if maker and self._configs[maker].model_transaction_policy.decoupled
        ]
        if decoupled and len(makers) > 1:
            strange = next(
                source
                for source in step.input_map.values()
                if self._made_by.get(source, "") != decoupled[0]
            )
            yield self._problem(
                strange,
                f"step {step.model_name!r} takes {strange!r} beside what the decoupled model "
                f"{decoupled[0]!r} makes, which Triton refuses; remove it from the input_map",
            )

    def _different(self, one: Any, other: Any, what: str, its: str) -> Iterator[Problem]:
        if one.data_type != other.data_type:
            yield self._problem(
                one.name, f"{what} has another data_type than {its}; make them equal"
            )
        elif not _fit(list(one.dims), list(other.dims)):
            yield self._problem(
                one.name,
                f"{what} has dims {list(one.dims)} and {its} {list(other.dims)}; make them equal",
            )

    def _problem(self, name: str, what: str) -> Problem:
        """A problem on the first line that names *name*."""
        return Problem(self._path, line_of(self._path, f'"{name}"'), what)


def _fit(one: list[int], other: list[int]) -> bool:
    """Whether a tensor of the one shape can be one of the other; -1 is any size."""
    # 0.5 declares its text as a matrix that is a list.
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) != len(longer):
        return all(size == -1 for size in shorter + longer)
    return all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))
