"""One request through preprocessing."""

from __future__ import annotations

from trt_tokenizers.processing.preprocess import EngineRequest, Preprocessor
from trt_tokenizers.processing.request import TextRequest


def process(preprocessor: Preprocessor, request: TextRequest) -> EngineRequest:
    """The engine request of *request*; raises its error."""
    (result,) = preprocessor.process_batch([request])
    if isinstance(result, Exception):
        raise result
    return result
