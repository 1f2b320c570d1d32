"""Type ``auto``: whatever the folder holds."""

from __future__ import annotations

import logging
from pathlib import Path

from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings

logger = logging.getLogger(__name__)


def load(settings: TokenizerSettings) -> Tokenizer:
    """tokenizer.json through `tokenizers`; without one, whatever transformers makes of the folder.

    Raises:
        TokenizerError: neither loads.
    """
    if (Path(settings.tokenizer_dir) / "tokenizer.json").is_file():
        from trt_tokenizers.tokenizers.fast import FastTokenizer

        logger.info("tokenizer type auto: %s has tokenizer.json", settings.tokenizer_dir)
        return FastTokenizer(settings)
    from trt_tokenizers.tokenizers.transformers import TransformersTokenizer

    logger.info(
        "tokenizer type auto: no tokenizer.json in %s, using transformers; the types "
        "llama and sentencepiece start faster",
        settings.tokenizer_dir,
    )
    return TransformersTokenizer(settings)
