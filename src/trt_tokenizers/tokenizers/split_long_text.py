"""Splits a long text so that the ids of its pieces, joined, are those of the whole text.

The library keeps all words and tokens of a text until it has encoded it. For long texts they exceed
the processor's caches, which costs half as much again. Pieces reuse the same memory.

A text is split between a letter and a space that precedes another letter, both a to z. Every
pre-tokenizer that `can_split` accepts splits there too, whatever the context: none of its patterns
matches a space after a letter, or looks beyond it. Later stages process each pre-token separately.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers

#: Minimum number of characters of a piece. Shorter pieces are not faster.
PIECE = 2_000
#: Texts of more characters are split.
LONG = 2 * PIECE

_SPLIT = re.compile(r"[a-z](?= [a-z])")

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_PREFIX = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
#: Alternatives of published patterns that match words. Each matches any letter from a to z with the
#: letters after it, and nothing more except a contraction.
_WORDS = {
    r" ?\p{L}+",
    rf"{_PREFIX}\p{{L}}+",
    rf"{_PREFIX}[\p{{L}}\p{{M}}]+",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    rf"{_PREFIX}{_UPPER}*{_LOWER}+",
    rf"{_PREFIX}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?",
}
#: Other alternatives of published patterns. None matches a space after a letter.
_OTHERS = {
    _CONTRACTIONS, "'s", "'t", "'re", "'ve", "'m", "'ll", "'d",
    r"\p{N}", r"\p{N}{1,3}", r" ?\p{N}+",
    rf"{_PREFIX}{_UPPER}+{_LOWER}*",
    rf"{_PREFIX}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?",
    r" ?[^\s\p{L}\p{N}]+",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r" ?[\p{P}\p{S}]+[\r\n]*",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
}  # fmt: skip
#: Unicode normal forms: they change only sequences between two starters, and letters and spaces are
#: starters.
_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD"}


def can_split(backend: tokenizers.Tokenizer) -> bool:
    """Whether texts for *backend* may be split; False if that is unknown."""
    try:
        normalizers = _steps(backend.normalizer, "normalizers")
        pre_tokenizers = _steps(backend.pre_tokenizer, "pretokenizers")
    except Exception:  # of parts written in Python; the library raises plain Exception
        return False
    return (
        all(step["type"] in _NORMALIZERS for step in normalizers)
        and _splits(pre_tokenizers)
        and not any(map(_may_span_split, backend.get_added_tokens_decoder().values()))
    )


def pieces(text: str) -> list[str]:
    """Split *text* into pieces of at least `PIECE` characters."""
    found, start = [], 0
    while len(text) - start > LONG and (split := _SPLIT.search(text, start + PIECE - 1)):
        found.append(text[start : split.end()])
        start = split.end()
    found.append(text[start:])
    return found


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    steps: list[dict[str, Any]] = state.get(name, [state])
    return steps


def _splits(steps: Iterable[Mapping[str, Any]]) -> bool:
    """Whether one step always splits at our places, and no other step looks beyond them."""
    splits = as_bytes = False
    for step in steps:
        if step["type"] == "ByteLevel":
            if step["add_prefix_space"]:
                return False
            # It uses GPT-2's pattern. Later steps see bytes as letters, including spaces.
            splits = splits or (step.get("use_regex", True) and not as_bytes)
            as_bytes = True
        elif step["type"] == "Split":
            pattern = step["pattern"].get("Regex", "")
            kept = (step["behavior"], step["invert"])
            alternatives = set(_alternatives(pattern))
            if not alternatives <= _WORDS | _OTHERS or kept not in (
                ("Isolated", False),
                ("Isolated", True),
                ("Removed", True),
            ):
                return False
            splits = splits or not (as_bytes or alternatives.isdisjoint(_WORDS))
        elif step["type"] != "Digits":
            return False
    return splits


def _alternatives(pattern: str) -> list[str]:
    """The top-level alternatives of a regular expression."""
    pattern = pattern.replace("\r", r"\r").replace("\n", r"\n")
    found, depth, in_class, start = [], 0, False, 0
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and not depth:
            found.append(pattern[start:at])
            start = at + 1
        at += 1
    found.append(pattern[start:])
    return found


def _may_span_split(token: tokenizers.AddedToken) -> bool:
    """Whether an added token may match a letter and the space after it, or inspect the letter."""
    text = unicodedata.normalize("NFKC", token.content)
    if (token.rstrip and text[-1:].isalpha()) or (token.single_word and text[:1].isspace()):
        return True
    # A token of spaces alone is longer than the one space of a split, or equals it.
    return bool(text.strip()) and any(map(str.isspace, text[1:]))
