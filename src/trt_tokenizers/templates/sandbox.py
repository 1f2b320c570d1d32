"""Jinja for templates that nobody has read: no way out, and bounds on time, size and recursion.

Jinja's own sandbox closes the attributes that lead out of a template. It bounds neither time nor
memory, so every operation that can make much out of little is met here: before it is done where
its result can be foreseen, after it where it cannot be larger than its operands together. Within
one operation of C code nothing can be stopped from here.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import GeneratorType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter, sync_do_join
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from trt_tokenizers.templates.bounds import (
    FILTER_CHECKS,
    MAX_BITS,
    MAX_CHARACTERS,
    MAX_ITEMS,
    TooMuchError,
    check_format,
    check_items,
    checked_method,
    refuse_over,
    size_of,
)

MAX_SECONDS = 0.5  #: of CPU time for one prompt
MAX_WORK = 1 << 27  #: characters of all texts that one prompt makes on its way
_MAX_LAZY = 100  # filters on filters; each takes a part of the stack, which C does not watch

#: Reach far, and no chat template has a use for them.
_REMOVED_FILTERS = ("pprint", "urlize", "xmlattr", "wordwrap", "striptags")


class _Unfolded(CodeGenerator):
    """Computes nothing while it compiles, where no clock runs; constants are text at once."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Any, finalize: Any) -> str:
        if not isinstance(node, (nodes.TemplateData, nodes.Const)):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """One per template; renders one prompt at a time, between `start` and the next."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))
    code_generator_class = _Unfolded

    def __init__(
        self,
        helpers: Mapping[str, Callable[..., Any]],
        filters: Mapping[str, Callable[..., Any]],
    ) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            finalize=self.bounded,
            optimized=False,
        )
        self._work = 0
        self._deadline = self._look_at = float("inf")
        self.globals.pop("lipsum")
        self.globals.update(helpers)
        for name in _REMOVED_FILTERS:
            del self.filters[name]
        self.filters.update({"sum": _sum, "join": _join, **filters})
        for name, function in self.filters.items():
            self.filters[name] = self._guarded(name, function)

    def start(self) -> None:
        """A new prompt: nothing spent yet."""
        self._work = 0
        self._deadline = time.thread_time() + MAX_SECONDS
        self._look_at = time.perf_counter() + MAX_SECONDS

    def tick(self, characters: int = 0) -> None:
        """One round of a loop, one call; *characters* of the template's own text go with it.

        Raises:
            TooMuchError: time is up, or too much was made.
        """
        self._work += characters
        if self._work > MAX_WORK:
            raise TooMuchError(f"it makes more than {MAX_WORK} characters on its way")
        # CPU time, a system call, passes no faster than the time that costs next to nothing.
        if time.perf_counter() > self._look_at:
            left = self._deadline - time.thread_time()
            if left < 0:
                raise TooMuchError(f"it takes more than {MAX_SECONDS} s")
            self._look_at = time.perf_counter() + left

    def bounded(self, value: Any) -> Any:
        """*value*, weighed."""
        self.tick(size_of(value))
        return value

    def joined(self, *values: Any) -> str:
        """Jinja's ``~``."""
        return "".join(str(self.bounded(value)) for value in values)

    def literal(self, value: Any) -> Any:
        """A list or mapping written out in the template, a slice, or a comparison."""
        return self.bounded(value)

    def spread(self, value: Any) -> Any:
        """What ``*`` makes arguments of."""
        check_items(value)
        return value

    def call_test(
        self, name: str, value: Any, args: Sequence[Any] | None = None, *more: Any, **others: Any
    ) -> Any:
        """For each item of ``select`` and its like; tests that are written out do not come here."""
        self.tick(size_of(value) + sum(map(size_of, args or ())))
        return super().call_test(name, value, args, *more, **others)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        method = getattr(obj, "__wrapped__", obj)  # Jinja wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            args = checked_method(owner, getattr(method, "__name__", ""), args, kwargs)
        elif isinstance(owner, (int, float, bytes)):
            raise TooMuchError("methods of numbers and bytes are not served")
        return self.bounded(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, bytes, list, tuple)) and isinstance(times, int):
                    limit = MAX_CHARACTERS if isinstance(value, (str, bytes)) else MAX_ITEMS
                    refuse_over(len(value) * times, limit)
            if isinstance(left, int) and isinstance(right, int):
                refuse_over(left.bit_length() + right.bit_length(), MAX_BITS)
        elif operator == "**":
            if isinstance(left, int) and isinstance(right, int):
                refuse_over(left.bit_length() * abs(right), MAX_BITS)
        elif operator == "%" and isinstance(left, str):
            check_format(left, "%", right)
        return self.bounded(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Bounds().visit(Parser(self, source, name, filename).parse())
        return tree

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        check = FILTER_CHECKS.get(name)

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            values = [a for a in args if not isinstance(a, (jinja2.Environment, Context))]
            values = [a for a in values if not isinstance(a, nodes.EvalContext)]
            for value in (*values, *kwargs.values()):
                self.bounded(value)
            if check is not None:
                check(*values, **kwargs)
            made = function(*args, **kwargs)
            if type(made) is GeneratorType:
                return _Lazy(made, self.bounded, args)
            return self.bounded(made)

        return guarded


class _Lazy:
    """The items of a filter that makes them when they are asked for; templates see no names."""

    def __init__(
        self, items: Iterator[Any], bounded: Callable[[Any], Any], args: Sequence[Any]
    ) -> None:
        self._items, self._bounded = items, bounded
        self._depth: int = 1 + max((a._depth for a in args if isinstance(a, _Lazy)), default=0)
        if self._depth > _MAX_LAZY:
            raise TooMuchError(f"more than {_MAX_LAZY} filters wait for one another")

    def __iter__(self) -> _Lazy:
        return self

    def __next__(self) -> Any:
        return self._bounded(next(self._items))


@jinja2.pass_environment  # as Jinja's own
def _sum(
    environment: TemplateEnvironment,
    values: Any,
    attribute: str | int | None = None,
    start: Any = 0,
) -> Any:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    for value in values:
        start = start + value
        environment.bounded(start)
    return start


@jinja2.pass_eval_context
def _join(
    context: nodes.EvalContext, values: Any, d: Any = "", attribute: str | int | None = None
) -> Any:
    parts, characters = [], 0
    if attribute is not None:
        values = map(make_attrgetter(context.environment, attribute), values)
    for value in values:
        size_of(value)
        parts.append(value if hasattr(value, "__html__") else str(value))  # autoescape asks for it
        characters += len(str(parts[-1])) + len(str(d))
        refuse_over(characters, MAX_CHARACTERS)
    return sync_do_join(context, parts, d)


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

    def _spread(self, node: Any) -> Any:
        self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = _call("spread", [node.dyn_args], node.lineno)
        return node

    visit_Call = visit_Filter = visit_Test = _spread  # noqa: N815

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
