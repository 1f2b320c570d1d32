"""What not every environment of scripts/compat can run. There the tests say "not applicable"."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest

#: The first transformers with the continuous batching that the engine is made for.
ENGINE_SINCE = (5, 23)


def transformers_of_the_engine() -> bool:
    return tuple(int(n) for n in version("transformers").split(".")[:2]) >= ENGINE_SINCE


def needs_engine() -> None:
    """Skip the calling module or fixture where the engine `transformers` cannot run."""
    try:
        here = f"torch {version('torch')}"
    except PackageNotFoundError:
        here = "no torch"
    if here == "no torch" or not transformers_of_the_engine():
        pytest.skip(
            "not applicable: the engine transformers needs torch and transformers 5.23, "
            f"here are {here} and transformers {version('transformers')}",
            allow_module_level=True,
        )
