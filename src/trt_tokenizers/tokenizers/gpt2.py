"""Type ``gpt2``: GPT-2's byte-level BPE, with BOS before every prompt."""

from __future__ import annotations

from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.hf_config import read_json
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.fast import FastTokenizer, load_backend

_END_OF_TEXT = "<|endoftext|>"
#: Hugging Face's names, then OpenAI's.
VOCABULARIES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


class Gpt2Tokenizer(FastTokenizer):
    """vocab.json and merges.txt, or tokenizer.json.

    Adds BOS as ``GPT2Tokenizer(add_bos_token=True)`` does, unless ``add_bos`` or
    tokenizer_config.json's ``add_bos_token`` is false. BOS and EOS are both ``<|endoftext|>``
    unless the files name others.
    """

    def __init__(self, settings: TokenizerSettings, *, always_bos: bool = True) -> None:
        """Load the files; *always_bos* adds BOS if the setting and the files do not say.

        Raises:
            TokenizerError: the files are missing, or do not load.
        """
        directory = Path(settings.tokenizer_dir)
        of_file = read_json(directory / "tokenizer_config.json").get("add_bos_token")
        if isinstance(of_file, bool):
            always_bos = of_file
        backend, self.vocabulary_files = _backend(directory)
        super().__init__(settings, backend, always_bos=always_bos)

    def _token_id(self, role: str) -> int | None:
        if role in ("bos_token", "eos_token"):
            self.special_tokens.setdefault(role, _END_OF_TEXT)
        return super()._token_id(role)


def _backend(directory: Path) -> tuple[tokenizers.Tokenizer, tuple[str, ...]]:
    for vocabulary, merges in VOCABULARIES:
        if (directory / vocabulary).is_file() and (directory / merges).is_file():
            return _from_merges(directory, vocabulary, merges), (vocabulary, merges)
    if (directory / "tokenizer.json").is_file():
        return load_backend(directory / "tokenizer.json"), FastTokenizer.vocabulary_files
    raise TokenizerError(
        f"tokenizer type 'gpt2' needs vocab.json and merges.txt, or tokenizer.json, in "
        f"{directory}; set tokenizer_dir to the folder that has them"
    )


def _from_merges(directory: Path, vocabulary: str, merges: str) -> tokenizers.Tokenizer:
    try:
        model = models.BPE.from_file(str(directory / vocabulary), str(directory / merges))
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(
            f"{directory / vocabulary} and {merges} do not load: {error}; restore the files"
        ) from error
    backend = tokenizers.Tokenizer(model)
    config = read_json(directory / "tokenizer_config.json")
    prefix_space = bool(config.get("add_prefix_space"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([_END_OF_TEXT])
    return backend
