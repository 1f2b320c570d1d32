"""What NVIDIA's templates of each surveyed TensorRT-LLM version hold; one JSON file per version.

For each model: inputs, outputs, parameters, placeholders and the ensemble's steps. A tensor is one
string, «name TYPE dims optional», for example ``"seed TYPE_UINT64 1 optional"``.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from trt_tokenizers.errors import RepositoryError


def minor_version(version: str) -> tuple[int, int]:
    """The first two numbers of a version such as 0.17.0.

    Raises:
        RepositoryError: *version* is not a version.
    """
    match = re.match(r"v?(\d+)\.(\d+)", version)
    if not match:
        raise RepositoryError(
            f"{version!r} is not a version of TensorRT-LLM; write it as 0.17 or 1.2.0"
        )
    return int(match[1]), int(match[2])


_FILES = [file.name for file in files(__name__).iterdir() if file.name.endswith(".json")]
#: The surveyed versions, oldest first: those that have a file here.
VERSIONS = tuple(sorted((name.removesuffix(".json") for name in _FILES), key=minor_version))
#: Between these two versions the types of the engine's inputs changed, in an unknown release.
_UNKNOWN = (0, 5), (0, 11)


@functools.cache
def schema(version: str) -> Mapping[str, Any]:
    """Model -> inputs, outputs, parameters, placeholders and steps, for one of `VERSIONS`."""
    found: dict[str, Any] = json.loads((files(__name__) / f"{version}.json").read_text("utf-8"))
    return found


def unknown_version(version: str) -> str:
    """The most similar schema if the tensors of *version* are not known; empty if they are."""
    if not _UNKNOWN[0] < minor_version(version) < _UNKNOWN[1]:
        return ""
    return VERSIONS[0] if minor_version(version) < (0, 8) else VERSIONS[1]


def schema_version(version: str) -> str:
    """The schema to use for TensorRT-LLM *version*: the newest one that is not newer.

    Raises:
        RepositoryError: *version* is not a version, or no schema fits it.
    """
    wanted = minor_version(version)
    if wanted < minor_version(VERSIONS[0]) or unknown_version(version):
        raise RepositoryError(
            f"the tensors of TensorRT-LLM {version} are not known; fill NVIDIA's templates of "
            "that version (fill_template -i FILE KEY:VALUE,…), then run: trt-tokenizers adopt "
            "REPOSITORY"
        )
    if wanted > minor_version(VERSIONS[-1]):
        raise RepositoryError(
            f"TensorRT-LLM {version} has no known C++ backend, the newest known one is "
            f"{VERSIONS[-1]}; use TensorRT-LLM {VERSIONS[-1]}, or another engine"
        )
    return max((v for v in VERSIONS if minor_version(v) <= wanted), key=minor_version)
