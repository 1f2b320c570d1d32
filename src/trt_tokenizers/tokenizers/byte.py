"""Type ``byte``: ids 0 to 255 are the bytes of UTF-8. For tests, and as an example."""

from __future__ import annotations

from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.segmented import SegmentedTokenizer


class ByteTokenizer(SegmentedTokenizer):
    """Has no special tokens and no BOS; answers end only at ``extra_eos_ids``."""

    def __init__(self, settings: TokenizerSettings) -> None:
        super().__init__(settings)
        self._set_vocabulary({}, lambda i: bytes([i]) if i < 256 else None)
        self.set_bos(None)
        self.set_eos_and_pad(None, None)

    def _encode_segment(self, text: str, *, first: bool) -> list[int]:
        return list(text.encode())
