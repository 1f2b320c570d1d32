"""Skips tests that an environment of scripts/compat cannot run, as "not applicable"."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest

#: The first transformers version with the continuous batching that the engine uses.
ENGINE_SINCE = (5, 23)


def transformers_of_the_engine() -> bool:
    return tuple(int(n) for n in version("transformers").split(".")[:2]) >= ENGINE_SINCE


def needs_oracle() -> None:
    """Skip the calling test if the installed transformers, its oracle, does not do this yet."""
    if not transformers_of_the_engine():
        pytest.skip(
            "not applicable: transformers 5.23 does this, which is compared with this package, "
            f"and transformers {version('transformers')} does not"
        )


def needs_engine() -> None:
    """Skip the calling module or fixture if the engine `transformers` cannot run."""
    try:
        torch = f"torch {version('torch')}"
    except PackageNotFoundError:
        torch = "no torch"
    if torch == "no torch" or not transformers_of_the_engine():
        pytest.skip(
            "not applicable: the engine transformers needs torch and transformers 5.23, "
            f"found {torch} and transformers {version('transformers')}",
            allow_module_level=True,
        )
