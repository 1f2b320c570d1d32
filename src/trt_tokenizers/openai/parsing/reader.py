"""The text of an answer, read by generators that wait for more of it.

A reading function is a generator: it yields when it needs more text, and is resumed when there is
more. What it returns and passes on depends on the text alone, not on how the text was cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from functools import lru_cache
from typing import TypeAlias, TypeVar

from trt_tokenizers.openai.parsing.base import Piece

_T = TypeVar("_T")
Steps: TypeAlias = Generator[None, None, _T]
Sink: TypeAlias = Callable[[str], object]

# Lone surrogates do not occur in decoded text. The first stands before a marker that is one token,
# the others enclose a token that skip_special_tokens leaves out.
_MARK, _HIDDEN, _SHOWN = "\udc00", "\udc01", "\udc02"
_HIDDEN_SPAN = re.compile(f"{_HIDDEN}[^{_SHOWN}]*{_SHOWN}|{_MARK}")
_SIGNS = re.compile(f"[{_MARK}{_HIDDEN}{_SHOWN}]")
#: Characters before the position that `back` and `keep` can return to.
_MARGIN = 80
_SPACE = re.compile(r"\s*")


def visible(text: str) -> str:
    """*text* as content: without hidden tokens."""
    return text if text.isascii() else _HIDDEN_SPAN.sub("", text)


def literal(text: str) -> str:
    """*text* as part of an argument: every token is text."""
    return text if text.isascii() else _SIGNS.sub("", text)


class _Stops:
    """Literals to stop at. None may lie inside another, except at its end."""

    def __init__(self, plain: tuple[str, ...], marked: tuple[str, ...]) -> None:
        self.names = dict(zip(marked, plain, strict=True))
        self.pattern = re.compile("|".join(re.escape(m) for m in marked))
        self.longest = max(map(len, marked))
        self._prefixes = {m[:n] for m in marked for n in range(1, len(m))}
        self._firsts = re.compile("[" + "".join(re.escape(m[0]) for m in marked) + "]")

    def held(self, text: str, start: int) -> int:
        """Where the end of *text* may be the beginning of a stop, or the length of *text*."""
        start = max(start, len(text) - self.longest + 1)
        while match := self._firsts.search(text, start):
            if text[match.start() :] in self._prefixes:
                return match.start()
            start = match.end()
        return len(text)


_stops = lru_cache(maxsize=1024)(_Stops)


class Reader:
    """A buffer of the text that is not read yet.

    Args:
        tokens: groups of strings that a tokenizer may have as added tokens. Once one of a group
            came as a special piece, the strings of that group count in markers only as special
            pieces; the same letters in ordinary text are text.
    """

    def __init__(self, tokens: Iterable[frozenset[str]]) -> None:
        self.text = ""
        self.position = 0
        self.ended = False
        self.cut = False
        self._groups = list(tokens)
        self._tokens = frozenset().union(*self._groups)
        self._marked: frozenset[str] = frozenset()
        self._stops: dict[tuple[str, ...], _Stops] = {}
        self._kept: int | None = None
        self._trailing = ""

    def push(self, piece: Piece) -> None:
        text = piece.text
        if piece.special and text in self._tokens:
            if text not in self._marked:
                self._marked = self._marked.union(*(g for g in self._groups if text in g))
                self._stops = {}
            text = _MARK + text
        elif piece.hidden:
            # A hidden token at the end of the answer, such as EOS, belongs to nothing.
            self._trailing += f"{_HIDDEN}{text}{_SHOWN}"
            return
        if self._trailing:
            text, self._trailing = self._trailing + text, ""
        start = self.position if self._kept is None else self._kept
        start = max(0, start - _MARGIN)
        self.text = self.text[start:] + text
        self.position -= start
        if self._kept is not None:
            self._kept -= start

    def end(self, cut: bool) -> None:
        self.ended, self.cut = True, cut

    # Going back

    def keep(self, before: str = "") -> None:
        """Keep the text from here, and *before*, the literal just read, for `kept`."""
        self._kept = self.position - len(self._mark(before))

    @property
    def keeping(self) -> bool:
        return self._kept is not None

    def release(self) -> None:
        self._kept = None

    def kept(self) -> str:
        """The text read since `keep`, which is no longer kept."""
        assert self._kept is not None
        text, self._kept = self.text[self._kept : self.position], None
        return visible(text)

    def back(self, text: str) -> None:
        """Unread *text*, the literal just read."""
        self.position -= len(self._mark(text))

    # Reading

    def until(self, stops: tuple[str, ...], sink: Sink) -> Steps[str | None]:
        """Pass the text before the first of *stops* to *sink*; read and return that stop.

        Returns None at the end of the answer.
        """
        while True:
            known = self._compiled(stops)
            text, start = self.text, self.position
            match = known.pattern.search(text, start)
            if match:
                stop = match.start()
                self.position = match.end()
            else:
                stop = known.held(text, start)
                if self.ended:
                    # A marker that is cut is text, but tokens of markers are never said.
                    stop = stop if _MARK in text[stop:] else len(text)
                self.position = stop
            if stop > start:
                sink(text[start:stop])
            if match:
                return known.names[match.group()]
            if self.ended:
                self.position = len(text)
                return None
            yield

    def rest(self) -> str:
        """All the text there is."""
        text, self.position = self.text[self.position :], len(self.text)
        return text

    def collect(self, stops: tuple[str, ...]) -> Steps[tuple[str, str | None]]:
        """The text before the first of *stops*, and that stop, read."""
        parts: list[str] = []
        stop = yield from self.until(stops, parts.append)
        return literal("".join(parts)), stop

    def follows(self, options: tuple[str, ...]) -> Steps[str | None]:
        """Which of *options* comes next after white space, not read. None: something else.

        Empty: the answer ends here, or inside one of *options*.
        """
        while True:
            known = self._compiled(options)
            text = self.text
            start = self._after_space()
            match = known.pattern.match(text, start)
            if match:
                return known.names[match.group()]
            if start < len(text) and known.held(text, start) != start:
                return None
            if self.ended:
                return ""
            yield

    def skip(self, text: str) -> None:
        """Read white space and *text*, which `follows` has found."""
        self.position = self._after_space() + len(self._mark(text))

    def peek(self) -> Steps[str]:
        """The next character after white space, which is read; "" at the end of the answer."""
        while True:
            self.position = self._after_space()
            if self.position < len(self.text):
                return self.text[self.position]
            if self.ended:
                return ""
            yield

    def read(self, character: str) -> bool:
        """Read *character* if it is at the position."""
        found = self.text.startswith(character, self.position)
        self.position += found
        return found

    def accept(self, character: str) -> Steps[bool]:
        """Read *character* if it comes next. White space before it is not skipped."""
        while self.position == len(self.text) and not self.ended:
            yield
        return self.read(character)

    def _after_space(self) -> int:
        match = _SPACE.match(self.text, self.position)
        assert match
        return match.end()

    def _mark(self, text: str) -> str:
        for token in self._marked:
            if token in text:
                text = text.replace(token, _MARK + token)
        return text

    def _compiled(self, stops: tuple[str, ...]) -> _Stops:
        known = self._stops.get(stops)
        if known is None:
            known = self._stops[stops] = _stops(stops, tuple(map(self._mark, stops)))
        return known
