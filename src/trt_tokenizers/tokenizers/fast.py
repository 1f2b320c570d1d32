"""tokenizer.json through the `tokenizers` library (Hugging Face's Rust core)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Decided before the library is imported: Triton forks nothing from a model, and a warning per
# process about forking helps nobody.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import tokenizers

from trt_tokenizers.detokenize import ByteStreamDecoder, StreamDecoder
from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.vocabulary import TokenBytes, byte_level_bytes, sentencepiece_bytes

_REPLACE_SPACE = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
_STRIP_FIRST = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


class FastTokenizer(Tokenizer):
    """Ids are those of the library, which are those of transformers' fast tokenizers.

    BOS is added where the file's own post-processor adds it, unless ``add_bos`` says otherwise.
    """

    vocabulary_files: tuple[str, ...] = ("tokenizer.json",)

    def __init__(
        self,
        settings: TokenizerSettings,
        backend: tokenizers.Tokenizer | None = None,
        *,
        always_bos: bool = False,
    ) -> None:
        """
        Args:
            settings: whose folder holds tokenizer.json, unless *backend* is given.
            backend: a tokenizer made otherwise.
            always_bos: this type adds BOS though the file does not.

        Raises:
            TokenizerError: no tokenizer.json, or it does not load.
        """
        super().__init__(settings)
        self._backend = backend or load_backend(self.files.directory / "tokenizer.json")
        self._backend.no_truncation()
        self._backend.no_padding()
        bos, eos, pad = (self._token_id(role) for role in ("bos_token", "eos_token", "pad_token"))
        file_adds_bos = bos is not None and bos in self._backend.encode("").ids[:1]
        self._set_bos(bos, file_adds=file_adds_bos, default=file_adds_bos or always_bos)
        self.padding_side = str(self.files.config.get("padding_side", "right"))
        self._set_eos_and_pad(eos, pad)
        self._special_ids = frozenset(
            i for i, token in self._backend.get_added_tokens_decoder().items() if token.special
        )
        self._tables = self._byte_tables()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        # The batch call alone leaves out the offsets, which nobody reads here.
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return self._corrected_bos(ids) if add_special_tokens else ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        if self._tables is None:
            # The library takes no negative ids and passes over those beyond its vocabulary.
            known = [i for i in ids if i >= 0]
            return str(self._backend.decode(known, skip_special_tokens=skip_special_tokens))
        stream = self.stream(skip_special_tokens=skip_special_tokens)
        return stream.feed(ids) + stream.finish()

    def stream(self, *, skip_special_tokens: bool = True, first: bool = True) -> StreamDecoder:
        if self._tables is None:
            return super().stream(skip_special_tokens=skip_special_tokens, first=first)
        return ByteStreamDecoder(
            self._tables[skip_special_tokens], strip_first_space=first and self._strip_first_space
        )

    def _token_id(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        if token is None:
            return None
        found: int | None = self._backend.token_to_id(token)
        return found

    def _byte_tables(self) -> dict[bool, TokenBytes] | None:
        """Tables with special tokens kept (False) and skipped (True), if this file's decoder
        works on bytes; None if it does not, and the library has to decode."""
        kind = _byte_decoder(self._backend.decoder)
        if kind is None:
            return None
        to_bytes, self._strip_first_space = kind
        piece = self._backend.id_to_token
        return {
            False: TokenBytes(piece, to_bytes),
            True: TokenBytes(piece, to_bytes, self._special_ids),
        }


def load_backend(path: Path) -> tokenizers.Tokenizer:
    """
    Raises:
        TokenizerError: *path* is missing or is no tokenizer.json.
    """
    if not path.is_file():
        raise TokenizerError(f"{path} does not exist; set tokenizer_dir to a folder that has it")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"{path} does not load: {error}; restore the file") from error


def _byte_decoder(decoder: Any) -> tuple[Callable[[str], bytes], bool] | None:
    """What turns a token into bytes and whether the first space is dropped, for the decoders
    that byte-level BPE and Llama-style SentencePiece conversions have; None for all others."""
    if decoder is None:
        return None
    state = json.loads(decoder.__getstate__())
    steps = state.get("decoders", [state])
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return byte_level_bytes, False
    if kinds[:3] == ["Replace", "ByteFallback", "Fuse"] and steps[0] == _REPLACE_SPACE:
        if steps[3:] == []:
            return sentencepiece_bytes, False
        if steps[3:] == [_STRIP_FIRST]:
            return sentencepiece_bytes, True
    return None
