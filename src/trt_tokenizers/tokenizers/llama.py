"""Type ``llama``: Llama's tokenizers, with BOS in front of every prompt."""

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
    """tokenizer.model (Llama 1, 2, Mistral, …) if there is one, else tokenizer.json (Llama 3), else
    Llama 3's original tokenizer.model, which is a rank file for type tiktoken.

    BOS is added unless ``add_bos`` or tokenizer_config.json's ``add_bos_token`` is false.

    Raises:
        TokenizerError: the folder has neither, or it does not load.
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
    """Llama 2's tokenizer.json puts a dummy space after every special token (``legacy=True``):
    its normalizer prepends one to each piece of text between them. Put it only at the beginning,
    as transformers does for ``legacy=False``."""
    if backend.normalizer is None:
        return backend
    state: dict[str, Any] = json.loads(backend.normalizer.__getstate__())
    steps = [step["type"] for step in state.get("normalizers", [state])]
    if steps == ["Prepend", "Replace"]:
        # A normalizer cannot be unset in place, only emptied.
        backend.normalizer = tokenizers.normalizers.Sequence([])
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(
            replacement="\N{LOWER ONE EIGHTH BLOCK}", prepend_scheme="first", split=False
        )
    return backend
