"""Texts that are difficult for tokenizers."""

from __future__ import annotations

ZWJ = "\N{ZERO WIDTH JOINER}"
HARD_TEXTS = [
    "The capital of France is Paris.",
    "  two spaces,   three,\tand a tab\n\n  and lines \n",
    "안녕하세요, 오늘 날씨가 어때요?",
    "今天天气怎么样？我们去公园吧。",
    "お元気ですか。東京タワーへ行きましょう！",
    "مرحبا، كيف حالك اليوم؟",
    "สวัสดีครับ วันนี้เป็นอย่างไรบ้าง",
    "नमस्ते, आप कैसे हैं? क्षत्रिय",
    f"family: 👨{ZWJ}👩{ZWJ}👧{ZWJ}👦, flag: 🇰🇷🇫🇷, skin: 👍🏽, heart: ❤️",
    "e\N{COMBINING ACUTE ACCENT} a\N{COMBINING DIAERESIS} combining",
    'def f(x):\n    return {"a": [1, 2], "b": "\\n"}  # code\n',
    "1234567890 3.14159 1e-9 0xFF",
    "Ελληνικά, Русский, עברית, Հայերեն, ქართული",
    "∑ᵢ αᵢ² ≤ ∞ → ½ ㎡ ﬁ",
    "\N{REPLACEMENT CHARACTER} is a character too",
    " leading space and trailing space ",
    "𝕳𝖊𝖑𝖑𝖔 𐍈 𠜎",
    "a",
    "\n",
]
