"""Incremental detokenization: token ids -> text.

Every decoder keeps one rule: the texts of all `feed` calls and of `finish`, joined, equal the text
of all ids decoded at once, however the ids are divided into calls.

- `ByteStreamDecoder`: for vocabularies whose ids represent bytes (byte-level BPE, SentencePiece
  with byte fallback). Constant work per id.
- `WindowStreamDecoder`: for any other decoder of a list of ids.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

#: Replaces bytes that are not UTF-8.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class StreamDecoder(ABC):
    """Decodes one stream of token ids."""

    @abstractmethod
    def feed(self, ids: Sequence[int]) -> str:
        """The text that *ids* make final; text that may still change is held back."""

    @abstractmethod
    def finish(self) -> str:
        """The text held back, with an incomplete character as U+FFFD. Call once, at the end."""


class ByteStreamDecoder(StreamDecoder):
    """Joins the bytes of the ids and decodes UTF-8 incrementally.

    A character that is incomplete at the end of the stream becomes one U+FFFD. Complete characters
    before it stay; `tokenizers`' ByteFallback replaces them too.
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
    """Decodes a short window of ids and emits the new text at its end.

    The window begins with the ids of the last emission, because a decoder may treat the first token
    of a text differently (SentencePiece drops its space).
    """

    __slots__ = ("_decode", "_emitted", "_ids", "_prefix")

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int] = ()) -> None:
        """Start a stream.

        Args:
            decode: ids -> text.
            before: ids that precede the stream; their text is not emitted.
        """
        self._decode = decode
        self._ids = list(before)
        self._emitted = len(self._ids)  # number of _ids whose text was emitted
        self._prefix = decode(self._ids) if before else ""  # their text

    def feed(self, ids: Sequence[int]) -> str:
        # One id at a time: the result must not depend on the division into calls.
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
