"""The setting ``clean_up_tokenization_spaces``: transformers' rules, for texts and streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trt_tokenizers.tokenizers.base import Tokenizer
from trt_tokenizers.tokenizers.detokenize import StreamDecoder

_RULES = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


def clean_up(text: str) -> str:
    """*text* without the spaces that a WordPiece decoder leaves before punctuation."""
    for rule in _RULES:
        text = text.replace(rule, rule.strip())
    return text


class CleanedUp:
    """Wraps a tokenizer and cleans up its text; ids and attributes are those of the tokenizer."""

    def __init__(self, inner: Tokenizer) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return clean_up(self._inner.decode(ids, skip_special_tokens=skip_special_tokens))

    def stream(self, *, skip_special_tokens: bool = True, first: bool = True) -> StreamDecoder:
        return _CleanedUpStream(
            self._inner.stream(skip_special_tokens=skip_special_tokens, first=first)
        )


class _CleanedUpStream(StreamDecoder):
    """Holds back the last word: a rule may still change it until the next word begins.

    No rule spans a space unless a space or an apostrophe precedes it, so the text can be cut there.
    The result of an earlier rule can span it only where ``n ' t`` becomes ``n't``.
    """

    __slots__ = ("_held", "_inner")

    def __init__(self, inner: StreamDecoder) -> None:
        self._inner = inner
        self._held = ""

    def feed(self, ids: Sequence[int]) -> str:
        text = self._held + self._inner.feed(ids)
        cut = text.rfind(" ")
        while cut > 0 and (text[cut - 1] in " '" or _may_become_not(text, cut)):
            cut = text.rfind(" ", 0, cut)
        if cut <= 0:
            self._held = text
            return ""
        self._held = text[cut:]
        return clean_up(text[:cut])

    def finish(self) -> str:
        text, self._held = self._held + self._inner.finish(), ""
        return clean_up(text)


def _may_become_not(text: str, cut: int) -> bool:
    """Whether the text around *cut* may become `` n't``, which the next rule matches."""
    return text.endswith(" n", 0, cut) and " ' t".startswith(text[cut : cut + 4])
