"""Every ``${placeholder}`` of NVIDIA's templates for the TensorRT-LLM ensemble.

They stand in nvidia_settings.json. The names come from the templates of the versions in
`schemas.VERSIONS`. We wrote the meanings. The defaults are those of the C++ backend. Where a file
needs a value, the default is one that works.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from trt_tokenizers.repository.schemas import VERSIONS, schema
from trt_tokenizers.settings import as_text, is_number, parse_bool


@dataclass(frozen=True)
class Setting:
    """One value that a user can set.

    Attributes:
        name: the placeholder.
        type: string, path, int, float, bool, ints (comma-separated), JSON, data type, or the
            allowed values separated by ``|``.
        default: the meaning of an empty value; empty: not set.
        models: the models whose config.pbtxt has it.
        parameter: its key in ``parameters``; empty: a field of the configuration itself.
        since, until: the first and last surveyed TensorRT-LLM version that has it; empty: none.
        engine: the engine that reads it; empty: it is not an engine's.
    """

    name: str
    type: str
    default: str
    meaning: str
    models: tuple[str, ...]
    parameter: str = ""
    since: str = ""
    until: str = ""
    engine: str = ""

    def problem(self, value: str) -> str | None:
        """What is wrong with *value* and what it must be; None if it is valid.

        An empty value is valid: it means the default.
        """
        valid, wanted = True, self.type
        if self.type == "int":
            valid, wanted = is_number(int, value), "a whole number"
        elif self.type == "float":
            valid, wanted = is_number(float, value), "a number"
        elif self.type == "bool":
            valid, wanted = parse_bool(value) is not None, "true or false"
        elif self.type == "ints":
            valid = all(is_number(int, part) for part in value.split(","))
            wanted = "comma-separated whole numbers"
        elif self.type == "data type":
            valid, wanted = value.startswith("TYPE_"), "a Triton data type such as TYPE_FP32"
        elif "|" in self.type:
            choices = self.type.split("|")
            valid = value.strip().lower() in [choice.lower() for choice in choices]
            wanted = f"one of {', '.join(choices)}"
        return None if valid or not value else f"{self.name} is {value!r}; it must be {wanted}"


def _read_settings() -> Iterator[Setting]:
    text = (files(__package__) / "nvidia_settings.json").read_text("utf-8")
    schemas = {version: schema(version).values() for version in VERSIONS}
    for row in json.loads(text):
        found = [
            version
            for version, models in schemas.items()
            if any(row["name"] in model.get("placeholders", ()) for model in models)
        ]
        versions = {"since": found[0], "until": found[-1]} if found else {}
        models = tuple(row["models"])
        engine = "tensorrtllm" if models == ("tensorrt_llm",) else ""
        yield Setting(**{"engine": engine, **row, **versions, "models": models})


#: Placeholder -> setting.
NVIDIA_SETTINGS = {setting.name: setting for setting in _read_settings()}


def normalized(name: str, value: str) -> str:
    """*value*, but a bool as a word that Triton's text format and the C++ backend know."""
    setting = NVIDIA_SETTINGS.get(name)
    flag = parse_bool(value) if setting is not None and setting.type == "bool" else None
    return value if flag is None or value == str(flag) else as_text(flag)


#: Parameters with a fixed value in the templates.
FIXED = {
    "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
}

#: Every valid key in ``parameters`` of a model with the C++ backend.
ENGINE_PARAMETERS = {
    **{
        name: Setting(name, "string", value, "", ("tensorrt_llm",)) for name, value in FIXED.items()
    },
    **{
        s.parameter: s
        for s in NVIDIA_SETTINGS.values()
        if s.parameter and "tensorrt_llm" in s.models
    },
}
