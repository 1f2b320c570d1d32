"""Type ``auto``: the type that suits what the folder holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.hf_config import read_json
from trt_tokenizers.plugins import find_plugin
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.files import files_like
from trt_tokenizers.tokenizers.registry import GROUP

logger = logging.getLogger(__name__)

#: Type, tokenizer_class of tokenizer_config.json and file that it reads as its model does.
_SENTENCEPIECE = (
    ("llama", "LlamaTokenizer", "tokenizer.model"),
    ("t5", "T5Tokenizer", "spiece.model"),
    ("mistral", "", "*.model.v*"),
    ("sentencepiece", "", "*.model"),
)
#: Without any of them transformers could only guess.
_TRANSFORMERS_ASKS = ("tokenizer_config.json", "config.json")


def load(settings: TokenizerSettings) -> Tokenizer:
    """tokenizer.json through `tokenizers`; without one the fast type that reads the files as their
    model does; else whatever transformers makes of the folder. The log says which, and why.

    Raises:
        TokenizerError: it does not load.
    """
    name, why = choose(Path(settings.tokenizer_dir))
    logger.info("tokenizer type auto: %s, since %s %s", name, settings.tokenizer_dir, why)
    factory = _OWN.get(name) or find_plugin(GROUP, name, "tokenizer type", TokenizerError)
    tokenizer: Tokenizer = factory(settings)
    return tokenizer


def choose(directory: Path) -> tuple[str, str]:
    """A type's name, and why: a phrase about the folder.

    Raises:
        TokenizerError: nothing there looks like a tokenizer.
    """
    from trt_tokenizers.tokenizers.gpt2 import VOCABULARIES
    from trt_tokenizers.tokenizers.mistral import tekken_file
    from trt_tokenizers.tokenizers.tiktoken import rank_file

    if (directory / "tokenizer.json").is_file():
        return "tokenizers", "has tokenizer.json"
    if tekken := tekken_file(directory):
        return "mistral", f"has {tekken.name}"
    if ranks := rank_file(directory):
        return "tiktoken", f"has the rank file {ranks.name}"
    kind = str(read_json(directory / "tokenizer_config.json").get("tokenizer_class") or "")
    # Other models' vocab.json and merges.txt look the same and are read otherwise.
    if kind.removesuffix("Fast") == "GPT2Tokenizer" or not (
        kind or (directory / "config.json").is_file()
    ):
        for names in VOCABULARIES:
            if all((directory / name).is_file() for name in names):
                return "gpt2", f"has {' and '.join(names)}, {kind or 'no tokenizer_class'}"
    for name, its_kind, pattern in _SENTENCEPIECE:
        if kind.removesuffix("Fast") == its_kind and (found := files_like(directory, pattern)):
            return name, f"has {found[0].name} and {kind or 'no tokenizer_class'}"
    if not any((directory / name).is_file() for name in _TRANSFORMERS_ASKS):
        raise TokenizerError(
            f"{directory} holds no tokenizer (tokenizer.json, tokenizer.model, tekken.json, "
            "*.tiktoken, vocab.json and merges.txt, tokenizer_config.json); set tokenizer_dir to "
            "the folder that does, or name the tokenizer_type"
        )
    return "transformers", (
        "has neither tokenizer.json nor files that a faster type (llama, gpt2, sentencepiece, t5, "
        "mistral, tiktoken) knows by themselves; naming the type starts faster"
    )


def _tokenizers(settings: TokenizerSettings) -> Tokenizer:
    from trt_tokenizers.tokenizers.fast import FastTokenizer

    return FastTokenizer(settings)


def _gpt2(settings: TokenizerSettings) -> Tokenizer:
    from trt_tokenizers.tokenizers.gpt2 import Gpt2Tokenizer

    # AutoTokenizer adds no BOS of its own accord; type gpt2 does.
    return Gpt2Tokenizer(settings, always_bos=False)


#: What is no type of its own, or is read otherwise than by the type.
_OWN: dict[str, Callable[[TokenizerSettings], Tokenizer]] = {
    "tokenizers": _tokenizers,
    "gpt2": _gpt2,
}
