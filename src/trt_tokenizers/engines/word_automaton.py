"""Aho-Corasick over token ids: a token costs the same for one word and for 10,000 of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence


class WordAutomaton:
    """Finds words in a sequence of tokens. A state is an int; 0 is the state before any token."""

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        """*words* without empty ones; takes time in proportion to the number of their ids."""
        self._next: list[dict[int, int]] = [{}]  # state -> token -> state
        self._last: list[list[int]] = [[]]  # state -> tokens that complete a word from its root
        self._ends: set[int] = set()  # states in which a word ends
        for word in words:
            state = 0
            for token in word[:-1]:
                state = self._child(state, token)
            end = self._child(state, word[-1])
            if end not in self._ends:
                self._ends.add(end)
                self._last[state].append(word[-1])
        self._link_suffixes()

    def _child(self, state: int, token: int) -> int:
        child = self._next[state].setdefault(token, len(self._next))
        if child == len(self._next):
            self._next.append({})
            self._last.append([])
        return child

    def _link_suffixes(self) -> None:
        """Breadth first: a state's suffix is shorter, so it is complete before the state."""
        self._suffix = [0] * len(self._next)  # the longest proper suffix that begins a word
        self._completing = [0] * len(self._next)  # the longest suffix with an entry in _last
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            suffix = self._suffix[state]
            self._completing[state] = suffix if self._last[suffix] else self._completing[suffix]
            if suffix in self._ends:
                self._ends.add(state)
            for token, child in self._next[state].items():
                self._suffix[child] = self.step(suffix, token)
                waiting.append(child)

    def step(self, state: int, token: int) -> int:
        """The state after *token*."""
        while state and token not in self._next[state]:
            state = self._suffix[state]
        return self._next[state].get(token, 0)

    def matches(self, state: int) -> bool:
        """Whether a word ends with the last token."""
        return state in self._ends

    def completions(self, state: int) -> Iterator[int]:
        """The tokens that would end a word of several tokens; one may come twice."""
        while state:
            yield from self._last[state]
            state = self._completing[state]
