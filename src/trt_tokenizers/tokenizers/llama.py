"""Type ``llama``: Llama's tokenizers, with BOS before every prompt."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import tokenizers

from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.hf_config import read_json
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.files import files_like
from trt_tokenizers.tokenizers.tiktoken import TiktokenTokenizer, rank_file


def load(settings: TokenizerSettings) -> Tokenizer:
    """Load the first of these that exists.

    1. A SentencePiece .model file (Llama 1, 2, Mistral, …).
    2. tokenizer.json (Llama 3).
    3. Llama 3's original tokenizer.model, which is a rank file for type tiktoken.

    BOS is added unless ``add_bos`` or tokenizer_config.json's ``add_bos_token`` is false.

    Raises:
        TokenizerError: the folder has none of them, or the file does not load.
    """
    directory = Path(settings.tokenizer_dir)
    config = read_json(directory / "tokenizer_config.json")
    if settings.add_bos is None and config.get("add_bos_token") is False:
        settings = dataclasses.replace(settings, add_bos=False)
    ranks = rank_file(directory)
    if ranks is None and files_like(directory, "*.model"):
        from trt_tokenizers.tokenizers.sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(settings)
    if (directory / "tokenizer.json").is_file():
        from trt_tokenizers.tokenizers.fast import FastTokenizer, load_backend

        backend = load_backend(directory / "tokenizer.json")
        if not settings.legacy:
            backend = _without_legacy(backend)
        return FastTokenizer(settings, backend, always_bos=True)
    if ranks is not None:
        return TiktokenTokenizer(settings)
    raise TokenizerError(
        f"tokenizer type 'llama' needs tokenizer.model or tokenizer.json in {directory}; "
        "set tokenizer_dir to the folder that has one"
    )


def _without_legacy(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Add the dummy space only at the beginning of a text, as transformers' ``legacy=False``.

    Llama 2's tokenizer.json adds it after every special token too (``legacy=True``): its normalizer
    prepends it to each segment between special tokens.
    """
    if backend.normalizer is None:
        return backend
    state: dict[str, Any] = json.loads(backend.normalizer.__getstate__())
    steps = [step["type"] for step in state.get("normalizers", [state])]
    if steps == ["Prepend", "Replace"]:
        # The library cannot remove a normalizer, only replace it.
        backend.normalizer = tokenizers.normalizers.Sequence([])
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(
            replacement="\N{LOWER ONE EIGHTH BLOCK}", prepend_scheme="first", split=False
        )
    return backend
