"""Type ``auto``: selects a type by the files in the folder."""

from __future__ import annotations

import logging
from pathlib import Path

from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.hf_config import read_json
from trt_tokenizers.plugins import find_plugin
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.files import files_like
from trt_tokenizers.tokenizers.registry import GROUP

logger = logging.getLogger(__name__)

#: Type, tokenizer_class of tokenizer_config.json, and file that this type reads as the model does.
_SENTENCEPIECE = (
    ("llama", "LlamaTokenizer", "tokenizer.model"),
    ("t5", "T5Tokenizer", "spiece.model"),
    ("mistral", "", "*.model.v*"),
    ("sentencepiece", "", "*.model"),
)
#: transformers needs one of them to recognize a tokenizer.
_TRANSFORMERS_CONFIGS = ("tokenizer_config.json", "config.json")


def load(settings: TokenizerSettings) -> Tokenizer:
    """Load the folder's tokenizer, and log which type and why.

    tokenizer.json is read through `tokenizers`. Without it a fast type is used if one reads the
    files as their model does; otherwise transformers.

    Raises:
        TokenizerError: it does not load.
    """
    name, why = choose(Path(settings.tokenizer_dir))
    logger.info("tokenizer type auto: %s, because %s %s", name, settings.tokenizer_dir, why)
    if name == "tokenizers":  # no registered type reads tokenizer.json alone
        from trt_tokenizers.tokenizers.fast import FastTokenizer

        return FastTokenizer(settings)
    if name == "gpt2":  # AutoTokenizer adds no BOS by default; type gpt2 does
        from trt_tokenizers.tokenizers.gpt2 import Gpt2Tokenizer

        return Gpt2Tokenizer(settings, always_bos=False)
    tokenizer: Tokenizer = find_plugin(GROUP, name, "tokenizer type", TokenizerError)(settings)
    return tokenizer


def choose(directory: Path) -> tuple[str, str]:
    """The name of the type, and the reason: a predicate whose subject is the folder.

    Raises:
        TokenizerError: the folder has no tokenizer.
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
    # Other models have files of the same names but read them differently.
    if kind.removesuffix("Fast") == "GPT2Tokenizer" or not (
        kind or (directory / "config.json").is_file()
    ):
        for names in VOCABULARIES:
            if all((directory / name).is_file() for name in names):
                return "gpt2", f"has {' and '.join(names)}, {kind or 'no tokenizer_class'}"
    for name, class_name, pattern in _SENTENCEPIECE:
        if kind.removesuffix("Fast") == class_name and (found := files_like(directory, pattern)):
            return name, f"has {found[0].name} and {kind or 'no tokenizer_class'}"
    if not any((directory / name).is_file() for name in _TRANSFORMERS_CONFIGS):
        raise TokenizerError(
            f"{directory} has no tokenizer (tokenizer.json, tokenizer.model, tekken.json, "
            "*.tiktoken, vocab.json and merges.txt, tokenizer_config.json); set tokenizer_dir to "
            "the folder that has one, or set tokenizer_type"
        )
    return "transformers", (
        "has neither tokenizer.json nor files that identify a faster type (llama, gpt2, "
        "sentencepiece, t5, mistral, tiktoken); set tokenizer_type to one of these to start faster"
    )
