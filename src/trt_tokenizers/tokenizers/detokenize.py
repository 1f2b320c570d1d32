"""Token ids -> text, piece by piece, with nothing lost and nothing guessed.

Every decoder here has two verbs and one law: the texts of all `feed` calls and of `finish`,
joined, are the same however the ids were cut into calls, and equal the whole decode.

- `ByteStreamDecoder`: for vocabularies whose ids stand for bytes (byte-level BPE, SentencePiece
  with byte fallback). Constant work per id.
- `WindowStreamDecoder`: for anything else that can decode a list of ids.
- `StopStrings`: ends a text exactly before the first stop string.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

#: What stands for bytes that are no UTF-8.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class StreamDecoder(ABC):
    """Decodes one stream of token ids."""

    @abstractmethod
    def feed(self, ids: Sequence[int]) -> str:
        """Text that became certain with *ids*; what may still change is held back."""

    @abstractmethod
    def finish(self) -> str:
        """The text held back, an incomplete character as U+FFFD. Call once, last."""


class ByteStreamDecoder(StreamDecoder):
    """Joins the bytes of the ids and decodes UTF-8 incrementally.

    A character cut by the end of the stream becomes one U+FFFD; a whole character that came
    before is never taken back (`tokenizers`' ByteFallback turns it into U+FFFD as well).
    """

    __slots__ = ("_decode", "_lstrip", "_token_bytes")

    def __init__(self, token_bytes: Mapping[int, bytes], *, strip_first_space: bool) -> None:
        self._token_bytes = token_bytes
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._lstrip = strip_first_space

    def feed(self, ids: Sequence[int]) -> str:
        table = self._token_bytes
        return self._strip(self._decode(b"".join([table[i] for i in ids])))

    def finish(self) -> str:
        return self._strip(self._decode(b"", True))

    def _strip(self, text: str) -> str:
        if self._lstrip and text:
            self._lstrip = False
            return text.removeprefix(" ")
        return text


class WindowStreamDecoder(StreamDecoder):
    """Decodes a short window of ids and emits what is new at its end.

    The window always keeps the ids of the last emission before the new ones, because a decoder
    may treat the first token of a text differently (SentencePiece drops its space).
    """

    __slots__ = ("_decode", "_emitted", "_ids", "_prefix")

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int] = ()) -> None:
        """
        Args:
            decode: ids -> text.
            before: ids that the stream goes on after; their text is not given.
        """
        self._decode = decode
        self._ids = list(before)
        self._emitted = len(self._ids)  # how many of _ids are in text that was emitted
        self._prefix = decode(self._ids) if before else ""  # their text

    def feed(self, ids: Sequence[int]) -> str:
        # One id at a time, so that the result does not depend on how the ids were cut.
        return "".join(map(self._feed_one, ids))

    def _feed_one(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._decode(self._ids)
        if len(text) <= len(self._prefix) or text.endswith(REPLACEMENT):
            return ""
        new = text[len(self._prefix) :]
        self._ids = self._ids[self._emitted :]
        self._emitted = len(self._ids)
        self._prefix = self._decode(self._ids)
        return new

    def finish(self) -> str:
        return self._decode(self._ids)[len(self._prefix) :]


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
