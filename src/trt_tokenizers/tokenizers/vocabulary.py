"""Token id -> bytes, for the two kinds of vocabulary whose ids represent bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from typing import Any


class TokenBytes(dict[int, bytes]):
    """A table that is filled on demand: filling it for 250,000 tokens would delay the start.

    Args:
        token_bytes: bytes of an id; None if the token does not exist.
        skipped: ids without text (special tokens).
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes | None], skipped: Container[int] = ()
    ) -> None:
        super().__init__()
        self._token_bytes = token_bytes
        self._skipped = skipped

    def __missing__(self, token_id: int) -> bytes:
        found = None
        if token_id >= 0 and token_id not in self._skipped:
            found = self._token_bytes(token_id)
        self[token_id] = b"" if found is None else found
        return self[token_id]


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable bytes are themselves, the others U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    alphabet = {chr(b): b for b in printable}
    alphabet.update({chr(0x100 + n): b for n, b in enumerate(others)})
    return alphabet


_ALPHABET = _byte_level_alphabet()


def byte_level_bytes(piece: str) -> bytes:
    """Bytes of a byte-level BPE token; a piece outside the alphabet is literal text."""
    try:
        return bytes([_ALPHABET[c] for c in piece])
    except KeyError:
        return piece.encode()


def sentencepiece_bytes(piece: str) -> bytes:
    """Bytes of a SentencePiece token: ``<0x0A>`` is a byte, and U+2581 is a space."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            pass
    return piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def any_of(words: Iterable[str]) -> str:
    """A regular expression that matches the longest of *words*.

    It is a tree of common prefixes. Trying a thousand ``<SPECIAL_…>`` one by one at every ``<``
    would take seconds for a text full of ``<``.
    """
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}
    return _expression(tree) if tree else "(?!)"


def _expression(node: dict[str, Any]) -> str:
    chain = ""
    while len(node) == 1:  # without a branch no group is needed
        ((character, node),) = node.items()
        if not character:
            return chain
        chain += re.escape(character)
    branches = "|".join(re.escape(c) + _expression(after) for c, after in node.items() if c)
    return f"{chain}(?:{branches}){'?' if '' in node else ''}"
