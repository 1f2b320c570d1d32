"""Cut a text exactly at its first stop string."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """Passes text through until a stop string is complete, for any division of the text.

    The stop string that is complete first wins, because it would have stopped the engine. If
    several end at the same place, the longest wins. Text that may begin a stop string is held
    back: at most the length of the longest stop string less one.

    Attributes:
        stopped: whether a stop string was found.
    """

    __slots__ = ("_held", "_include", "_longest", "_stops", "stopped")

    def __init__(self, stops: Iterable[str], *, include: bool = False) -> None:
        self._stops = tuple(sorted({s for s in stops if s}, key=len, reverse=True))
        self._longest = len(self._stops[0]) if self._stops else 0
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
        text = self._held + text
        # The longest come first, so min() prefers them among those that end at the same place.
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
        """The text held back so far; it includes no stop string."""
        held, self._held = self._held, ""
        return held

    def _certain(self, text: str) -> int:
        """Index of the first character that may begin an incomplete stop string."""
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if any(s.startswith(text[at:]) for s in self._stops):
                return at
        return len(text)
