"""Cut a text exactly at its first stop string, and token ids at their first stop word.

The work per character or token does not grow with the number of stop strings or stop words.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence


class StopStrings:
    """Passes text through until a stop string is complete, for any division of the text.

    The stop string that is complete first wins, because it would have stopped the engine. If
    several end at the same place, the longest wins. Text that may begin a stop string is held
    back: at most the length of the longest stop string less one.

    Like the automaton of Aho and Corasick, it reads each character once. The state is the longest
    end of the text that begins a stop string; this is also the text to hold back.

    Attributes:
        stopped: whether a stop string was found.
    """

    def __init__(self, stops: Iterable[str], *, include: bool = False) -> None:
        self._stops = frozenset(s for s in stops if s)
        self._sorted = sorted(self._stops)
        # Last character -> lengths of the stop strings that end with it, longest first.
        lengths = defaultdict(set)
        for stop in self._stops:
            lengths[stop[-1]].add(len(stop))
        self._lengths = {last: sorted(its, reverse=True) for last, its in lengths.items()}
        self._include = include
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The part of the held-back text and *text* that no stop string can include.

        Once `stopped`, it is empty.
        """
        if self.stopped:
            return ""
        if not self._stops:
            return text
        whole, held = self._held + text, self._held
        for end, character in enumerate(text, len(held) + 1):
            held += character
            while held and not self._begins_a_stop(held):
                held = held[1:]
            if stop := self._complete(held):
                self.stopped = True
                self._held = ""
                return whole[: end if self._include else end - len(stop)]
        self._held = held
        return whole[: len(whole) - len(held)]

    def finish(self) -> str:
        """The text held back so far; it includes no stop string."""
        held, self._held = self._held, ""
        return held

    def _begins_a_stop(self, text: str) -> bool:
        at = bisect_left(self._sorted, text)
        return at < len(self._sorted) and self._sorted[at].startswith(text)

    def _complete(self, held: str) -> str:
        """The longest stop string at the end of *held*; empty if there is none."""
        for length in self._lengths.get(held[-1:], ()):
            if length <= len(held) and (end := held[-length:]) in self._stops:
                return end
        return ""


class StopIds:
    """Finds a stop word's token ids at the end of an answer's ids."""

    def __init__(self, words: Iterable[tuple[int, ...]]) -> None:
        self._words = frozenset(words)
        # Last id -> lengths of the words that end with it.
        self._lengths: defaultdict[int, set[int]] = defaultdict(set)
        for word in self._words:
            self._lengths[word[-1]].add(len(word))
        self._longest = max(map(len, self._words), default=0)
        self._tail: tuple[int, ...] = ()

    def end(self, ids: Sequence[int]) -> bool:
        """Whether a word is at the end of *ids*."""
        return bool(ids) and any(
            tuple(ids[-length:]) in self._words for length in self._lengths.get(ids[-1], ())
        )

    def feed(self, ids: Sequence[int]) -> bool:
        """Append *ids* to the answer; whether a word is at its end now."""
        if not self._longest:
            return False
        self._tail = (*self._tail, *ids)[-self._longest :]
        return self.end(self._tail)
