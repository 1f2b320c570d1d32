"""The ensemble's wiring: what Triton does between its models, for an ensemble in one process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import RepositoryError, RequestError
from trt_tokenizers.repository.pbtxt import parse_config, schema
from trt_tokenizers.repository.problems import read_model_config
from trt_tokenizers.settings import model_settings

Array = npt.NDArray[Any]

TEXT_MODELS = ("preprocessing", "postprocessing")
#: Kind of a numpy type -> Python's type, and its name in messages.
_KINDS: dict[str, tuple[type, str]] = {
    "b": (bool, "true or false"),
    "i": (Integral, "a whole number"),
    "u": (Integral, "a whole number"),
    "f": (Real, "a number"),
    "O": (str, "a string"),
}


class Wiring:
    """An ensemble of preprocessing -> engine -> postprocessing: its maps and its models' settings.

    Attributes:
        steps: model -> its step in the ensemble.
        engine: name of the engine's model.
        backend: of that model.
        settings: model -> its settings.
        types: the ensemble's inputs -> their numpy types.
    """

    def __init__(self, read: Callable[[str], Any], folder: Path) -> None:
        """*read*: the ModelConfig of a model. *folder*: of the repository.

        Raises:
            RepositoryError: a config.pbtxt cannot be read, or the ensemble has other steps.
        """
        from tritonclient.utils import triton_to_np_dtype

        ensemble = read("ensemble")
        self.steps = {step.model_name: step for step in ensemble.ensemble_scheduling.step}
        others = sorted(self.steps.keys() - set(TEXT_MODELS))
        if len(self.steps) != 3 or len(others) != 1:
            raise RepositoryError(
                f"the ensemble has the steps {', '.join(self.steps) or 'none'}; it must have "
                "preprocessing, one engine and postprocessing"
            )
        self.engine: str = others[0]
        configs = {name: read(name) for name in self.steps}
        self.backend: str = configs[self.engine].backend
        self.settings = {
            name: model_settings(
                {key: value.string_value for key, value in config.parameters.items()},
                str(folder / name),
            )
            for name, config in configs.items()
        }
        self.types: dict[str, np.dtype[Any]] = {}
        for tensor in ensemble.input:
            kind = schema().DataType.Name(tensor.data_type).removeprefix("TYPE_")
            numpy_type = triton_to_np_dtype(kind.replace("STRING", "BYTES"))
            self.types[tensor.name] = np.dtype(numpy_type)

    @classmethod
    def of_repository(cls, folder: Path) -> Wiring:
        """The ensemble in a repository. Python can import its engine's modules afterwards.

        Raises:
            RepositoryError: as in the constructor.
        """
        wiring = cls(lambda name: read_model_config(folder / name / "config.pbtxt"), folder)
        # As in Triton, an engine of another package may be in the folder of the model's version.
        versions = (folder / wiring.engine).glob("[0-9]*")
        sys.path += [path for path in map(str, versions) if path not in sys.path]
        return wiring

    @classmethod
    def of_files(cls, files: Mapping[str, str]) -> Wiring:
        """The ensemble in the result of `generate.render`."""
        return cls(lambda name: parse_config(files[f"{name}/config.pbtxt"]), Path())

    def tensors(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """*values* of the ensemble's inputs as tensors, a batch of one.

        A list of objects and an object become JSON text where the input is text.

        Raises:
            RequestError: a value has the wrong type.
        """
        return {name: _tensor(name, value, self.types[name]) for name, value in values.items()}

    def inputs(self, model: str, pool: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs of *model* among the ensemble's tensors."""
        names = self.steps[model].input_map.items()
        return {name: pool[source] for name, source in names if source in pool}

    def outputs(self, model: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of *model* as the ensemble's tensors."""
        names = self.steps[model].output_map
        return {names[name]: array for name, array in arrays.items() if name in names}


def _tensor(name: str, value: Any, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "O" and _is_json(value):
        value = json.dumps(value, ensure_ascii=False)
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    wanted, noun = _KINDS[dtype.kind]
    for item in items:
        right = isinstance(item, wanted) and isinstance(item, bool) == (wanted is bool)
        if right and wanted is Integral:
            limits = np.iinfo(dtype)
            right = limits.min <= item <= limits.max
        if not right:
            raise RequestError(f"{name} is {item!r:.80}; it must be {noun}{_range(dtype)}")
    if dtype.kind == "O":  # preprocessing refuses what is no UTF-8
        items = [item.encode(errors="surrogatepass") for item in items]
    with np.errstate(over="ignore"):  # too large a number is infinite, which is out of each range
        return np.array([items], dtype=dtype)


def _is_json(value: Any) -> bool:
    """Whether *value* is an object, or a list of objects such as messages."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return bool(value) and all(isinstance(each, Mapping) for each in value)
    return isinstance(value, Mapping)


def _range(dtype: np.dtype[Any]) -> str:
    if dtype.kind not in "iu":
        return ""
    limits = np.iinfo(dtype)
    return f" from {limits.min} to {limits.max}"
