"""2,000 reproducible texts, and a strategy for hypothesis."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from texts import HARD_TEXTS, ZWJ

#: Difficult parts of texts: whitespace of all kinds, numbers, contractions, partial words, marks.
PIECES = [
    " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u2003", "\u200b", "\u3000",
    "'s", "'S", "n't", "'re", "’s", " 's", "1", "12", "123", "1234", "12345", "1,000.5", "½", "٣",
    ".", "...", "!?", "?!", " .", " ,", "#", "//", "/**/", "<", ">", "<|", "|>", "</", "[", "]",
    "\\", "_", "__init__", "CamelCase", "snake_case", "UPPER", "ß", "ﬁ", "É", "e\u0301", "Å", "Å",
    "▁", "Ġ", "Ċ", "<0x0A>", "�", "\ufeff", "\0", "\x1b", "\u202e", "ᄒ",
    "한", "글", "中", "文",
    "の",
    "ก", "ำ", "ا", "ي", "ש", "क", "्", "ष", "👍", "🏽", ZWJ, "🇫", "🇷", "❤", "\ufe0f", "𝔘",
    "𠜎", "\U0010ffff",
    "the", " the", " The", "hello", " world", "http://a.b/c?d=e&f", "user@example.com", "a" * 40,
    "-" * 30, " " * 17, "\n" * 9, "{\"a\": [1, null]}", "def f(x):\n\treturn x\n", "日本語",
    "Привет",
]  # fmt: skip


def texts(count: int = 2000, seed: int = 7) -> list[str]:
    """The hard texts, then random sequences of pieces and of parts of hard texts."""
    random_ = random.Random(seed)
    made = [
        *HARD_TEXTS,
        *PIECES,
        *(f" {p}" for p in PIECES),
        *(f"{p} " for p in PIECES),
        "x" * 3000,
    ]
    while len(made) < count:
        parts = []
        for _ in range(random_.randint(1, 12)):
            if random_.random() < 0.3:
                source = random_.choice(HARD_TEXTS)
                at = random_.randrange(len(source))
                parts.append(source[at : at + random_.randint(1, 20)])
            else:
                parts.append(random_.choice(PIECES))
        made.append("".join(parts))
    return made


ANY_TEXT = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.text(st.characters(categories=["L", "M", "N", "P", "S", "Z"]), max_size=40),
)
