"""Where a long text may be cut, so that the ids of its pieces are those of the whole.

The library keeps all of a text's words and tokens until its end. For long texts that is more than
the processor's caches hold, and costs half as much again; pieces use the same memory one after the
other.

A text is cut between a letter and a space before another letter, both a to z. There every
pre-tokenizer that `sure` knows cuts too, whatever stands around: none of its patterns matches a
space after a letter, nor looks beyond one. What is behind the pre-tokenizer sees its words only.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers

#: Characters of a piece, at the least. Shorter pieces are no faster.
PIECE = 2_000
#: Characters of a text that it is worth it for.
LONG = 2 * PIECE

_CUT = re.compile(r"[a-z](?= [a-z])")

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BEFORE_A_WORD = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
#: Alternatives of published patterns, one of which matches any letter from a to z: with the letters
#: that follow, and no further but for a contraction.
_WORDS = {
    r" ?\p{L}+",
    rf"{_BEFORE_A_WORD}\p{{L}}+",
    rf"{_BEFORE_A_WORD}[\p{{L}}\p{{M}}]+",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    rf"{_BEFORE_A_WORD}{_UPPER}*{_LOWER}+",
    rf"{_BEFORE_A_WORD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?",
}
#: Further ones, which match no space after a letter.
_OTHERS = {
    _CONTRACTIONS, "'s", "'t", "'re", "'ve", "'m", "'ll", "'d",
    r"\p{N}", r"\p{N}{1,3}", r" ?\p{N}+",
    rf"{_BEFORE_A_WORD}{_UPPER}+{_LOWER}*",
    rf"{_BEFORE_A_WORD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?",
    r" ?[^\s\p{L}\p{N}]+",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r" ?[\p{P}\p{S}]+[\r\n]*",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
}  # fmt: skip
#: Each changes a text by what stands between two starters of Unicode, as letters and spaces are.
_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD"}


def sure(backend: tokenizers.Tokenizer) -> bool:
    """Whether texts for *backend* may be cut. False where that is not known."""
    try:
        normalizers = _steps(backend.normalizer, "normalizers")
        pre_tokenizers = _steps(backend.pre_tokenizer, "pretokenizers")
    except Exception:  # parts written in Python do not tell; the library raises plain Exception
        return False
    return (
        all(step["type"] in _NORMALIZERS for step in normalizers)
        and _cuts(pre_tokenizers)
        and not any(map(_reaches_over, backend.get_added_tokens_decoder().values()))
    )


def pieces(text: str) -> list[str]:
    """*text*, in pieces of `PIECE` characters and more."""
    made, start = [], 0
    while len(text) - start > LONG and (cut := _CUT.search(text, start + PIECE - 1)):
        made.append(text[start : cut.end()])
        start = cut.end()
    made.append(text[start:])
    return made


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    steps: list[dict[str, Any]] = state.get(name, [state])
    return steps


def _cuts(steps: Iterable[Mapping[str, Any]]) -> bool:
    """Whether one step cuts for sure, and no other undoes it or sees beyond."""
    sure = as_bytes = False
    for step in steps:
        if step["type"] == "ByteLevel":
            if step["add_prefix_space"]:
                return False
            # With GPT-2's own pattern. What comes after it sees bytes as letters, spaces too.
            sure = sure or (step.get("use_regex", True) and not as_bytes)
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
            sure = sure or not (as_bytes or alternatives.isdisjoint(_WORDS))
        elif step["type"] != "Digits":
            return False
    return sure


def _alternatives(pattern: str) -> list[str]:
    """What a regular expression has between bars that are in no brackets."""
    pattern = pattern.replace("\r", r"\r").replace("\n", r"\n")
    made, depth, in_class, start = [], 0, False, 0
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
            made.append(pattern[start:at])
            start = at + 1
        at += 1
    made.append(pattern[start:])
    return made


def _reaches_over(token: tokenizers.AddedToken) -> bool:
    """Whether an added token may take a letter and the space behind it, or look at the letter."""
    text = unicodedata.normalize("NFKC", token.content)
    if (token.rstrip and text[-1:].isalpha()) or (token.single_word and text[:1].isspace()):
        return True
    # One of spaces alone is longer than the one space of a cut, or is all of it.
    return bool(text.strip()) and any(map(str.isspace, text[1:]))
