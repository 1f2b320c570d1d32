"""Plugins by name: entry points of any installed package, or ``module:attribute``.

Tokenizer types and engines are found here, the built-in ones too. Only the chosen one is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from trt_tokenizers.errors import TrtTokenizersError
from trt_tokenizers.settings import nearest


def find_plugin(
    group: str, name: str, what: str, error_class: type[TrtTokenizersError]
) -> Callable[..., Any]:
    """The object behind an entry point of *group*, or behind ``module:attribute``.

    Raises:
        error_class: the name is unknown (lists what there is), given twice (names both packages),
            or its module does not import (names the missing package).
    """
    if ":" in name:
        point = EntryPoint(name=name, value=name, group=group)
    else:
        found = {p.value: p for p in entry_points(group=group, name=name)}
        if not found:
            known = sorted({p.name for p in entry_points(group=group)})
            raise error_class(
                f"unknown {what} {name!r}{nearest(name, known)}; known are: {', '.join(known)}, "
                "or module:Class"
            )
        if len(found) > 1:
            owners = sorted(f"{value} of {_owner(p)}" for value, p in found.items())
            raise error_class(f"{what} {name!r} is registered twice: {' and '.join(owners)}")
        point = next(iter(found.values()))
    try:
        plugin: Callable[..., Any] = point.load()
    except ModuleNotFoundError as error:
        raise error_class(
            f"{what} {name!r} needs the module {error.name!r}; install the package that has it"
        ) from error
    except (ImportError, AttributeError) as error:
        raise error_class(f"{what} {name!r} does not import: {error}") from error
    return plugin


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown package"
