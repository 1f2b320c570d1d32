"""The public names of the stream decoders, for tokenizer types of other packages."""

from trt_tokenizers.tokenizers.detokenize import (
    REPLACEMENT,
    ByteStreamDecoder,
    StreamDecoder,
    WindowStreamDecoder,
)

__all__ = ["REPLACEMENT", "ByteStreamDecoder", "StreamDecoder", "WindowStreamDecoder"]
