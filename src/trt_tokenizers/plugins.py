"""Plugins by name: entry points of any installed package, or ``module:attribute``.

Tokenizer types and engines are found here, the built-in ones too. Only the chosen one is imported.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from trt_tokenizers.errors import TrtTokenizersError
from trt_tokenizers.settings import nearest

#: ``module:attribute``, both of them dotted names.
_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def find_plugin(
    group: str, name: str, what: str, error_class: type[TrtTokenizersError]
) -> Callable[..., Any]:
    """The object behind an entry point of *group*, or behind ``module:attribute``.

    Raises:
        error_class: the name is unknown (lists what there is), given twice (names both packages),
            its module does not import (names the missing package, or what it raised), or it is
            nothing that makes one.
    """
    if ":" in name:
        if not _TARGET.fullmatch(name):
            raise error_class(
                f"{what} {name!r} is no module:Class; write it as my_package.my_module:MyClass"
            )
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
            raise error_class(f"{what} {name!r} {_twice(found.values())}")
        point = next(iter(found.values()))
    try:
        plugin: Callable[..., Any] = point.load()
    except ModuleNotFoundError as error:
        raise error_class(
            f"{what} {name!r} needs the module {error.name!r}; install the package that has it"
        ) from error
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything
        raise error_class(
            f"{what} {name!r} {_failure(error)}; correct its module, or name another one"
        ) from error
    if not callable(plugin):
        raise error_class(
            f"{what} {name!r} is a {type(plugin).__name__}; name a class or a function"
        )
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


def list_plugins(group: str, needs: Mapping[str, tuple[str, str]]) -> list[Plugin]:
    """Every entry point of *group*, imported to see whether it can be.

    Args:
        group: of entry points.
        needs: name -> module that the plugin imports only when it is used, and the mend where
            that is missing.
    """
    found = []
    points = sorted(entry_points(group=group), key=lambda p: (p.name, p.value))
    for point in points:
        error = ""
        try:
            point.load()
            module, mend = needs.get(point.name, ("", ""))
            if module and importlib.util.find_spec(module) is None:
                error = f"needs the module {module!r}; {mend}"
        except (Exception, SystemExit) as problem:
            error = _failure(problem)
        same = {p.value: p for p in points if p.name == point.name}
        if len(same) > 1:
            error = _twice(same.values())
        version = point.dist.version if point.dist else ""
        found.append(Plugin(point.name, _owner(point), version, point.value, error))
    return found


def _failure(error: BaseException) -> str:
    return f"does not import: {type(error).__name__}: {error}".splitlines()[0]


def _twice(points: Iterable[EntryPoint]) -> str:
    owners = sorted(f"{point.value} of {_owner(point)}" for point in points)
    return f"is registered twice: {' and '.join(owners)}; uninstall one of them"


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown package"
