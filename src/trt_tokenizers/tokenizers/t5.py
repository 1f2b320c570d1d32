"""Type ``t5``: T5's SentencePiece unigram models, with EOS after every plain prompt."""

from __future__ import annotations

from pathlib import Path

from trt_tokenizers.hf_config import read_json
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings

_SENTINELS = 100  # <extra_id_0> … <extra_id_99>, in T5 and related models


def load(settings: TokenizerSettings) -> Tokenizer:
    """Load tokenizer.json, or else the SentencePiece file (spiece.model, …).

    Plain prompts end with EOS unless ``add_eos`` is false; there is no BOS. The sentinels
    ``<extra_id_0>`` … follow the model file's pieces; tokenizer_config.json's ``extra_ids`` gives
    their number (default 100). ``legacy`` is tokenizer_config.json's, or true, as in transformers.

    Raises:
        TokenizerError: the folder has neither, or it does not load.
    """
    directory = Path(settings.tokenizer_dir)
    if (directory / "tokenizer.json").is_file():
        from trt_tokenizers.tokenizers.fast import FastTokenizer

        return FastTokenizer(settings)
    from trt_tokenizers.tokenizers.sentencepiece import SentencePieceTokenizer

    config = read_json(directory / "tokenizer_config.json")
    legacy, sentinels = config.get("legacy"), config.get("extra_ids")
    return SentencePieceTokenizer(
        settings,
        adds_eos=True,
        legacy=legacy if isinstance(legacy, bool) else True,
        sentinels=sentinels if isinstance(sentinels, int) else _SENTINELS,
    )
