"""Plugins by name: entry points of any installed package, or ``module:attribute``.

Tokenizer types and engines are found here, the built-in ones too. Only the chosen one is imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Plugin:
    """A registered plugin, as `list_plugins` finds it.

    Attributes:
        name: what users write.
        package, version: whose entry point it is.
        target: ``module:attribute``.
        error: why it cannot be used here, one line, or empty.
    """

    name: str
    package: str
    version: str
    target: str
    error: str


def list_plugins(group: str, needs: Mapping[str, str]) -> list[Plugin]:
    """Every entry point of *group*, imported to see whether it can be.

    Args:
        group: of entry points.
        needs: name -> module that the plugin imports only when it is used.
    """
    found = []
    for point in sorted(entry_points(group=group), key=lambda p: (p.name, p.value)):
        error = ""
        try:
            point.load()
            module = needs.get(point.name)
            if module is not None and importlib.util.find_spec(module) is None:
                error = f"needs the module {module!r}, which is not installed"
        except Exception as problem:  # a stranger's module may raise anything
            error = f"does not import: {type(problem).__name__}: {problem}".splitlines()[0]
        version = point.dist.version if point.dist else ""
        found.append(Plugin(point.name, _owner(point), version, point.value, error))
    return found


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown package"
