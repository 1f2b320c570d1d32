"""Type ``auto``: the type that suits what the folder holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.files import read_json

logger = logging.getLogger(__name__)

#: Type, tokenizer_class of tokenizer_config.json and file that it reads as its model does.
_SENTENCEPIECE = (
    ("llama", "LlamaTokenizer", "tokenizer.model"),
    ("t5", "T5Tokenizer", "spiece.model"),
    ("mistral", "", "*.model.v*"),
    ("sentencepiece", "", "*.model"),
)


def load(settings: TokenizerSettings) -> Tokenizer:
    """tokenizer.json through `tokenizers`; without one the fast type that reads the files as their
    model does; else whatever transformers makes of the folder. The log says which, and why.

    Raises:
        TokenizerError: it does not load.
    """
    name, why = choose(Path(settings.tokenizer_dir))
    logger.info("tokenizer type auto: %s, since %s %s", name, settings.tokenizer_dir, why)
    return _LOADERS[name](settings)


def choose(directory: Path) -> tuple[str, str]:
    """A type's name, and why: a phrase about the folder."""
    from trt_tokenizers.tokenizers.mistral import tekken_file
    from trt_tokenizers.tokenizers.tiktoken import rank_file

    if (directory / "tokenizer.json").is_file():
        return "tokenizers", "has tokenizer.json"
    if tekken := tekken_file(directory):
        return "mistral", f"has {tekken.name}"
    if ranks := rank_file(directory):
        return "tiktoken", f"has the rank file {ranks.name}"
    kind = str(read_json(directory / "tokenizer_config.json").get("tokenizer_class", ""))
    for name, its_kind, pattern in _SENTENCEPIECE:
        if kind.removesuffix("Fast") == its_kind and (found := sorted(directory.glob(pattern))):
            return name, f"has {found[0].name} and {kind or 'no tokenizer_class'}"
    return "transformers", (
        "has neither tokenizer.json nor files that a faster type (llama, gpt2, sentencepiece, t5, "
        "mistral, tiktoken) knows by themselves; naming the type starts faster"
    )


def _tokenizers(settings: TokenizerSettings) -> Tokenizer:
    from trt_tokenizers.tokenizers.fast import FastTokenizer

    return FastTokenizer(settings)


def _llama(settings: TokenizerSettings) -> Tokenizer:
    from trt_tokenizers.tokenizers.llama import load

    return load(settings)


def _t5(settings: TokenizerSettings) -> Tokenizer:
    from trt_tokenizers.tokenizers.t5 import load

    return load(settings)


def _mistral(settings: TokenizerSettings) -> Tokenizer:
    from trt_tokenizers.tokenizers.mistral import load

    return load(settings)


def _tiktoken(settings: TokenizerSettings) -> Tokenizer:
    from trt_tokenizers.tokenizers.tiktoken import TiktokenTokenizer

    return TiktokenTokenizer(settings)


def _sentencepiece(settings: TokenizerSettings) -> Tokenizer:
    from trt_tokenizers.tokenizers.sentencepiece import SentencePieceTokenizer

    return SentencePieceTokenizer(settings)


def _transformers(settings: TokenizerSettings) -> Tokenizer:
    from trt_tokenizers.tokenizers.transformers import TransformersTokenizer

    return TransformersTokenizer(settings)


_LOADERS: dict[str, Callable[[TokenizerSettings], Tokenizer]] = {
    "tokenizers": _tokenizers,
    "llama": _llama,
    "t5": _t5,
    "mistral": _mistral,
    "tiktoken": _tiktoken,
    "sentencepiece": _sentencepiece,
    "transformers": _transformers,
}
