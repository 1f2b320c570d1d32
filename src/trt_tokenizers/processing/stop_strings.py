"""Ends a text exactly before its first stop string."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """Passes text through until a stop string is complete, however the text is cut.

    The stop string that is complete first wins (as it would have stopped the engine); of several
    that end at the same place, the longest. Text that could be the beginning of a stop string is
    held back: at most the longest stop string less one character.
    """

    __slots__ = ("_held", "_include", "_longest", "_stops", "stopped")

    def __init__(self, stops: Iterable[str], *, include: bool = False) -> None:
        self._stops = tuple(sorted({s for s in stops if s}, key=len, reverse=True))
        self._longest = len(self._stops[0]) if self._stops else 0
        self._include = include
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What of the held-back text and *text* is certain to stand before any stop string.
        Nothing once `stopped`."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        # Longest first, so that min() keeps the longest of those that end at the same place.
        ends = [(at + len(s), s) for s in self._stops if (at := text.find(s)) >= 0]
        if ends:
            end, stop = min(ends, key=lambda match: match[0])
            self.stopped = True
            self._held = ""
            return text[: end if self._include else end - len(stop)]
        certain = self._certain(text)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """What was held back; no stop string is in it."""
        held, self._held = self._held, ""
        return held

    def _certain(self, text: str) -> int:
        """Index of the first character that may begin a stop string still to be completed."""
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if any(s.startswith(text[at:]) for s in self._stops):
                return at
        return len(text)
