"""Type ``codepoint``: a token is a character, and its id is the code point."""

from collections.abc import Sequence

from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings


class CodepointTokenizer(Tokenizer):
    def __init__(self, settings: TokenizerSettings) -> None:
        super().__init__(settings)
        self.set_bos(2, default=True)  # BOS, or None; prompts begin with it
        self.set_eos_and_pad(3, 0)  # EOS ends an answer; PAD fills a batch

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids = [ord(character) for character in text]
        return self.framed(ids) if add_special_tokens else ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        skipped = {0, 2, 3} if skip_special_tokens else set()
        return "".join(chr(i) for i in ids if i not in skipped and i < 0x110000)
