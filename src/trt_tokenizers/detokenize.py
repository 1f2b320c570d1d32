"""The stream decoders under their public name, for tokenizer types of other packages."""

from trt_tokenizers.tokenizers.detokenize import (
    REPLACEMENT,
    ByteStreamDecoder,
    StreamDecoder,
    WindowStreamDecoder,
)

__all__ = ["REPLACEMENT", "ByteStreamDecoder", "StreamDecoder", "WindowStreamDecoder"]
