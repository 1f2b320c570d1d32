"""Type ``codepoint``: a token is a character, its id the character's number."""

from __future__ import annotations

from collections.abc import Sequence

from trt_tokenizers.tokenizers.base import Tokenizer


class CodepointTokenizer(Tokenizer):
    """U+0002 begins a text, U+0003 ends it."""

    bos_id, adds_bos = 2, True
    eos_ids = (3,)
    pad_id = 0

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids = [ord(character) for character in text]
        return [2, *ids] if add_special_tokens else ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        skipped = {0, 2, 3} if skip_special_tokens else set()
        return "".join(chr(i) for i in ids if i not in skipped and 0 <= i < 0x110000)
