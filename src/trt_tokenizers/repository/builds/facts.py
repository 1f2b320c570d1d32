"""Reads facts.json: the containers, models, programs and options of TensorRT-LLM's versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.schemas import minor_version

_IMAGE = "nvcr.io/nvidia/tritonserver:{}-trtllm-python-py3"
#: TensorRT-LLM's C++ backend in NVIDIA's containers.
_BACKEND = Path("/opt/tritonserver/backends/tensorrtllm")


class Release(NamedTuple):
    """A container and what is in it.

    Attributes:
        version: of TensorRT-LLM.
        container: the container's number, such as 25.01.
        tensorrt: its TensorRT; empty: unknown.
        git: the tag of TensorRT-LLM's sources; empty: they are not public.
        trap: what goes wrong with it; empty: nothing known.
    """

    version: str
    container: str
    tensorrt: str
    git: str
    source: str
    trap: str = ""

    @property
    def image(self) -> str:
        """The container's full name."""
        return _IMAGE.format(self.container)


class Recipe(NamedTuple):
    """The programs that build engines of some models.

    Attributes:
        model_types: as in config.json.
        folder, group: of the programs in TensorRT-LLM's examples.
        programs: in their order.
        pipeline_since: the first version with pipeline parallelism; empty: none has it.
        variant: what the config.json of the models has that need this row; empty: nothing special.
    """

    model_types: list[str]
    since: str
    until: str
    folder: str
    group: str
    programs: list[str]
    pipeline_since: str
    source: str
    variant: str = ""


class Option(NamedTuple):
    """An option of some programs.

    Attributes:
        value: a template; empty: the option has no value. One without a value is left out.
        when: the condition that must be true; empty: always.
        default: what the program takes without the option, for people.
        ours: the value if the user gives none; empty: the program's default.
    """

    programs: list[str]
    name: str
    value: str
    since: str
    until: str
    source: str
    when: str = ""
    default: str = ""
    ours: str = ""
    why: str = ""


class Quantization(NamedTuple):
    """A type of weights.

    Attributes:
        bits: of one weight.
        condition: `Option.when` of the conversion's options for it; empty: quantize.py makes it.
        fp8_kv_cache: the KV cache becomes fp8 too.
    """

    name: str
    bits: int
    condition: str = ""
    fp8_kv_cache: bool = False


class Gpu(NamedTuple):
    """A GPU, its compute capability × 10, and the versions that support it."""

    name: str
    capability: int
    since: str
    until: str
    source: str


#: The rows of facts.json by table.
FACTS: dict[str, list[dict[str, Any]]] = json.loads(
    (files(__package__) / "facts.json").read_text("utf-8")
)
RELEASES = [Release(**row) for row in FACTS["releases"]]
RECIPES = [Recipe(**row) for row in FACTS["models"]]
OPTIONS = [Option(**row) for row in FACTS["options"]]
QUANTIZATIONS = {row["name"]: Quantization(**row) for row in FACTS["quantizations"]}
GPUS = {row["name"]: Gpu(**row) for row in FACTS["gpus"]}
#: Type -> the compute capability × 10 that it needs.
TYPES: dict[str, int] = {row["name"]: row["capability"] for row in FACTS["types"]}
#: Program -> its row: command and reason, as templates.
PROGRAMS = {row["program"]: row for row in FACTS["programs"]}
_SINCE = {row["name"]: row["since"] for row in FACTS["changes"] if "name" in row}
_LAST = minor_version(RELEASES[-1].version)


def valid(row: Recipe | Option | Gpu, version: str) -> bool:
    """Whether a row is true for TensorRT-LLM *version*."""
    return minor_version(row.since) <= minor_version(version) <= minor_version(row.until)


def at_least(version: str, since: str) -> bool:
    """Whether *version* is the minor version *since* or newer; False if *since* is empty."""
    return bool(since) and minor_version(version) >= minor_version(since)


def has(change: str, version: str) -> bool:
    """Whether TensorRT-LLM *version* has a change, by its name in facts.json."""
    return at_least(version, _SINCE[change])


def find_release(version: str) -> Release:
    """The newest container with TensorRT-LLM *version*, which may be a minor version.

    Raises:
        RepositoryError: no container has it, its sources are not public, or it builds no engines.
    """
    wanted = version.removeprefix("v")
    if minor_version(wanted) > _LAST:
        raise RepositoryError(
            f"TensorRT-LLM {wanted} builds no engines: trtllm-build and the C++ backend are gone "
            "after 1.2; serve the model's folder: trt-tokenizers generate --engine llmapi --model "
            "FOLDER, or build with 1.2"
        )
    same = [row for row in RELEASES if minor_version(row.version) == minor_version(wanted)]
    found = [row for row in same if row.version == wanted] or [
        row for row in same if row.git and re.fullmatch(r"\d+\.\d+", wanted)
    ]
    if not found:
        known = ", ".join(dict.fromkeys(row.version for row in same or RELEASES))
        raise RepositoryError(
            f"no known container has TensorRT-LLM {wanted}, and an engine runs only in the version "
            f"that built it; known are {known}; list the containers: trt-tokenizers versions"
        )
    if not found[-1].git:
        public = [row for row in same if row.git][-1]
        raise RepositoryError(
            f"the sources of TensorRT-LLM {wanted} are not public, so its scripts are not known; "
            f"build with {public.version}, and serve the engine in {public.image}"
        )
    return found[-1]


def host_version() -> str:
    """The TensorRT-LLM of this machine or container; empty if it has none that is known."""
    try:
        return importlib.metadata.version("tensorrt_llm")
    except importlib.metadata.PackageNotFoundError:
        pass
    number = os.environ.get("NVIDIA_TRITON_SERVER_VERSION", "")  # NVIDIA's images set it
    rows = [row for row in RELEASES if row.container == number and _BACKEND.is_dir()]
    return rows[0].version if rows else ""


def mismatch(built: str, host: str) -> str:
    """Why an engine does not load, with the container that fits; empty if the versions agree.

    Args:
        built: the version in the engine's config.json; empty: none, so it is older than 0.8.
        host: the result of `host_version`.
    """
    if not built:
        if not at_least(host, "0.8"):
            return ""
        rows = [row for row in RELEASES if not at_least(row.version, "0.8")]
        builder = "0.5, 0.6 or 0.7 (its config.json has no version)"
        fits = " or ".join(f"{row.image} ({row.version})" for row in rows)
    else:
        if _number(built) == _number(host):
            return ""
        rows = [row for row in RELEASES if row.version == _number(built)]
        builder = built
        fits = rows[-1].image if rows else f"a container with {built}"
    again = (
        f"build it again: trt-tokenizers build-command --model FOLDER --tensorrt-llm-version {host}"
    )
    if minor_version(host) > _LAST:
        again = "serve the model's folder with the engine llmapi"
    return (
        f"the engine was built by TensorRT-LLM {builder} and {host} is installed here, which "
        f"cannot load it; use {fits}, or {again}"
    )


def _number(version: str) -> str:
    return version.partition("+")[0]  # without the local part
