"""Jinja for templates that nobody has read: no way out, and bounds on time, size and recursion.

Jinja's own sandbox closes the attributes that lead out of a template. It bounds neither time nor
memory, so every operation that can make much out of little is met here: before it is done where
its result can be foreseen, after it where it cannot be larger than its operands together.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_SECONDS = 0.5  #: of CPU time for one prompt
MAX_CHARACTERS = 1 << 24  #: of one text
MAX_WORK = 1 << 27  #: characters of all texts that one prompt makes on its way
MAX_ITEMS = 200_000  #: of a list or mapping, nested ones included
_MAX_BITS = 4096  #: of an integer
_CHECK_TIME_EVERY = 16

#: Reach far, and no chat template has a use for them.
_REMOVED_FILTERS = ("pprint", "urlize", "xmlattr", "wordwrap", "striptags")
_WIDE_FORMAT = re.compile(r"\d{5}|\*|\{[^}]*\{")


class TooMuchError(jinja2.TemplateError):
    """A template went over one of the bounds."""


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """One per template; renders one prompt at a time, between `start` and the next."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(
        self,
        helpers: Mapping[str, Callable[..., Any]],
        filters: Mapping[str, Callable[..., Any]],
    ) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            finalize=self._bounded,
        )
        self._work = self._ticks = 0
        self._deadline = float("inf")
        self.globals.pop("lipsum")
        self.globals.update(helpers)
        for name in _REMOVED_FILTERS:
            del self.filters[name]
        self.filters.update({"sum": _sum, **filters})
        for name, function in self.filters.items():
            self.filters[name] = self._guarded(name, function)

    def start(self) -> None:
        """A new prompt: nothing spent yet."""
        self._work = self._ticks = 0
        self._deadline = time.thread_time() + MAX_SECONDS

    def tick(self, characters: int = 0) -> None:
        """One round of a loop, one call; *characters* of the template's own text go with it.

        Raises:
            TooMuchError: time is up, or too much was made.
        """
        self._work += characters
        if self._work > MAX_WORK:
            raise TooMuchError(f"it makes more than {MAX_WORK} characters on its way")
        self._ticks += 1
        if self._ticks % _CHECK_TIME_EVERY == 0 and time.thread_time() > self._deadline:
            raise TooMuchError(f"it takes more than {MAX_SECONDS} s")

    def joined(self, *values: Any) -> str:
        """Jinja's ``~``."""
        return "".join(str(self._bounded(value)) for value in values)

    def literal(self, value: Any) -> Any:
        """A list or mapping written out in the template, a slice, or a comparison."""
        return self._bounded(value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        method = getattr(obj, "__wrapped__", obj)  # Jinja wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            args = _checked_method(owner, getattr(method, "__name__", ""), args, kwargs)
        elif isinstance(owner, (int, float, bytes)):
            raise TooMuchError("methods of numbers and bytes are not served")
        return self._bounded(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, bytes, list, tuple)) and isinstance(times, int):
                    limit = MAX_CHARACTERS if isinstance(value, (str, bytes)) else MAX_ITEMS
                    _refuse_over(len(value) * times, limit)
            if isinstance(left, int) and isinstance(right, int):
                _refuse_over(left.bit_length() + right.bit_length(), _MAX_BITS)
        elif operator == "**":
            if isinstance(left, int) and isinstance(right, int):
                _refuse_over(left.bit_length() * abs(right), _MAX_BITS)
        elif operator == "%" and isinstance(left, str):
            _check_format(left, "%", right)
        return self._bounded(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Bounds().visit(Parser(self, source, name, filename).parse())
        return tree

    def _bounded(self, value: Any) -> Any:
        self.tick(_size(value))
        return value

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        check = _FILTER_CHECKS.get(name)

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            values = [a for a in args if not isinstance(a, (jinja2.Environment, Context))]
            values = [a for a in values if not isinstance(a, nodes.EvalContext)]
            for value in (*values, *kwargs.values()):
                self._bounded(value)
            if check is not None:
                check(*values, **kwargs)
            return self._bounded(function(*args, **kwargs))

        return guarded


def _refuse_over(size: int, limit: int) -> None:
    if size > limit:
        raise TooMuchError(f"one value would have the size {size}; at most {limit} is served")


def _size(value: Any) -> int:
    """Characters in *value* and what it holds.

    Raises:
        TooMuchError: more than one value may have.
    """
    if isinstance(value, str):
        _refuse_over(len(value), MAX_CHARACTERS)
        return len(value)
    if not isinstance(value, (list, tuple, dict)):
        return 0
    characters = items = 0
    stack: list[Any] = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            characters += len(part)
            _refuse_over(characters, MAX_CHARACTERS)
        elif isinstance(part, (list, tuple, dict)):
            items += len(part)
            _refuse_over(items, MAX_ITEMS)
            stack.extend(part)
            if isinstance(part, dict):
                stack.extend(part.values())
    return characters


def _check_format(text: str, mark: str, *values: Any) -> None:
    if _WIDE_FORMAT.search(text):
        raise TooMuchError("a format has a width of five digits or more, or one from a variable")
    # A container may be written out for every mark, escapes and quotes included.
    _refuse_over(text.count(mark) * sum(4 * _size(v) + 64 for v in values), MAX_CHARACTERS)


def _checked_method(
    text: str, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The arguments of a method of *text*, once its result is known to be bounded."""
    for value in args:
        if isinstance(value, int):
            _refuse_over(value, MAX_CHARACTERS)
    if method == "replace":
        _check_replace(text, *args)
    elif method == "join" and args:
        parts = [str(part) for part in args[0]]
        _refuse_over(sum(map(len, parts)) + len(text) * len(parts), MAX_CHARACTERS)
        return (parts,)
    elif method in ("format", "format_map"):
        _check_format(text, "{", *args, *kwargs.values())
    elif method == "expandtabs" and args:
        _refuse_over(text.count("\t") * args[0], MAX_CHARACTERS)
    elif method == "translate":
        raise TooMuchError("str.translate is not served")
    return args


def _check_replace(text: Any, old: Any = "", new: Any = "", *_: Any, **__: Any) -> None:
    _refuse_over(str(text).count(str(old)) * len(str(new)), MAX_CHARACTERS)


def _check_join(values: Any, d: Any = "", *_: Any, **__: Any) -> None:
    many = len(values) if hasattr(values, "__len__") else MAX_ITEMS
    _refuse_over(many * len(str(d)), MAX_CHARACTERS)


def _check_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    width = width if isinstance(width, int) else len(str(width))
    _refuse_over((str(text).count("\n") + 1) * width, MAX_CHARACTERS)


def _check_width(_: Any, width: Any = 0, *__: Any, **___: Any) -> None:
    _refuse_over(int(width), MAX_CHARACTERS)


def _check_batch(_: Any, number: Any = 0, *__: Any, **___: Any) -> None:
    _refuse_over(int(number), MAX_ITEMS)


def _check_items(value: Any, *_: Any, **__: Any) -> None:
    if hasattr(value, "__len__"):
        _refuse_over(len(value), MAX_ITEMS)


def _check_tojson(
    value: Any, ensure_ascii: Any = False, indent: Any = None, *_: Any, **__: Any
) -> None:
    if indent is not None:
        _refuse_over(len(indent) if isinstance(indent, str) else int(indent), 64)


_FILTER_CHECKS: dict[str, Callable[..., None]] = {
    "replace": _check_replace,
    "join": _check_join,
    "indent": _check_indent,
    "center": _check_width,
    "batch": _check_batch,
    "slice": _check_batch,
    "list": _check_items,
    "sort": _check_items,
    "unique": _check_items,
    "tojson": _check_tojson,
    "format": lambda text, *args, **kwargs: _check_format(str(text), "%", *args, *kwargs.values()),
}


@jinja2.pass_environment  # as Jinja's own
def _sum(
    environment: jinja2.Environment,
    values: Any,
    attribute: str | int | None = None,
    start: Any = 0,
) -> Any:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    for value in values:
        start = start + value
        _size(start)
    return start


class _Bounds(NodeTransformer):
    """Puts the bounds into a parsed template."""

    def _ticked(self, node: Any) -> Any:
        self.generic_visit(node)
        own = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
        call = _call("tick", [nodes.Const(own)], node.lineno)
        node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))
        return node

    visit_For = visit_Macro = visit_CallBlock = _ticked  # noqa: N815

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("joined", node.nodes, node.lineno)

    def _weighed(self, node: Any) -> Any:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load":
            return node
        return _call("literal", [node], node.lineno)

    visit_List = visit_Tuple = visit_Dict = visit_Compare = _weighed  # noqa: N815

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        if isinstance(node.arg, nodes.Slice):
            return self._weighed(node)  # type: ignore[no-any-return]
        self.generic_visit(node)
        return node


def _call(method: str, args: list[nodes.Expr], lineno: int) -> nodes.Call:
    target = nodes.EnvironmentAttribute(method, lineno=lineno)
    return nodes.Call(target, args, [], None, None, lineno=lineno)


class _Generation(Extension):
    """``{% generation %}``, which marks the assistant's tokens for training, marks nothing here."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)
