"""Plugins by name: entry points of installed packages, or ``module:attribute``.

Tokenizer types and engines are plugins, including the built-in ones. `find_plugin` imports only the
one that is named.
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
    """The class or function that an entry point of *group*, or ``module:attribute``, names.

    Args:
        group: of entry points.
        name: of an entry point, or ``module:attribute``.
        what: noun for error messages, such as "tokenizer type".
        error_class: raised if there is no usable plugin.

    Raises:
        error_class: the name is unknown (lists the known ones) or registered twice (names both
            packages), the module does not import (names the missing module, or the error), or the
            object is not callable.
    """
    if ":" in name:
        if not _TARGET.fullmatch(name):
            raise error_class(
                f"{what} {name!r} is not module:Class; write it as my_package.my_module:MyClass"
            )
        point = EntryPoint(name=name, value=name, group=group)
    else:
        found = {p.value: p for p in entry_points(group=group, name=name)}
        if not found:
            known = sorted({p.name for p in entry_points(group=group)})
            raise error_class(
                f"unknown {what} {name!r}{nearest(name, known)}; valid are: {', '.join(known)}, "
                "or module:Class"
            )
        if len(found) > 1:
            raise error_class(f"{what} {name!r} {_duplicate(found.values())}")
        point = next(iter(found.values()))
    try:
        plugin: Callable[..., Any] = point.load()
    except ModuleNotFoundError as error:
        raise error_class(
            f"{what} {name!r} needs the module {error.name!r}; install the package that has it"
        ) from error
    except (Exception, SystemExit) as error:  # another package's module may raise anything
        raise error_class(
            f"{what} {name!r} {_import_error(error)}; correct its module, or name another one"
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
        name: the name in settings.
        package, version: the package that registers the entry point.
        target: ``module:attribute``.
        error: one line that says why it cannot be used here, or empty.
    """

    name: str
    package: str
    version: str
    target: str
    error: str


def list_plugins(group: str, needs: Mapping[str, tuple[str, str]]) -> list[Plugin]:
    """Every entry point of *group*. Imports each of them to see whether it can be used.

    Args:
        group: of entry points.
        needs: name -> a module that the plugin imports only when it is used, and the fix if that
            module is missing.
    """
    plugins = []
    points = sorted(entry_points(group=group), key=lambda p: (p.name, p.value))
    for point in points:
        error = ""
        try:
            point.load()
            module, fix = needs.get(point.name, ("", ""))
            if module and importlib.util.find_spec(module) is None:
                error = f"needs the module {module!r}; {fix}"
        except (Exception, SystemExit) as problem:
            error = _import_error(problem)
        same_name = {p.value: p for p in points if p.name == point.name}
        if len(same_name) > 1:
            error = _duplicate(same_name.values())
        version = point.dist.version if point.dist else ""
        plugins.append(Plugin(point.name, _package(point), version, point.value, error))
    return plugins


def _import_error(error: BaseException) -> str:
    return f"does not import: {type(error).__name__}: {error}".splitlines()[0]


def _duplicate(points: Iterable[EntryPoint]) -> str:
    targets = sorted(f"{point.value} of {_package(point)}" for point in points)
    return f"is registered twice: {' and '.join(targets)}; uninstall one of them"


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown package"
