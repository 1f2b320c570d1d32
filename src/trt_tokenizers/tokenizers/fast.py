"""tokenizer.json through the `tokenizers` library (Hugging Face's Rust core)."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

# Set before the import: otherwise the library warns when a process that used it forks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import tokenizers

from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.tokenizers import split_long_text
from trt_tokenizers.tokenizers.base import GUARD, Tokenizer, TokenizerSettings, no_panic
from trt_tokenizers.tokenizers.detokenize import ByteStreamDecoder, StreamDecoder
from trt_tokenizers.tokenizers.files import TokenizerFiles
from trt_tokenizers.tokenizers.vocabulary import TokenBytes, byte_level_bytes, sentencepiece_bytes

_REPLACE_SPACE = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
_STRIP_FIRST = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


class FastTokenizer(Tokenizer):
    """Gives the ids of the library, which are those of transformers' fast tokenizers.

    BOS is added if the file's post-processor adds it, unless ``add_bos`` says otherwise.
    """

    vocabulary_files: tuple[str, ...] = ("tokenizer.json",)

    def __init__(
        self,
        settings: TokenizerSettings,
        backend: tokenizers.Tokenizer | None = None,
        *,
        always_bos: bool = False,
    ) -> None:
        """Load tokenizer.json of the settings' folder, or use *backend*, the library's tokenizer.

        *always_bos* adds BOS even if the file does not.

        Raises:
            TokenizerError: no tokenizer.json, or it does not load.
        """
        super().__init__(settings)
        self._backend = backend or load_backend(self.files.directory / "tokenizer.json")
        _add_tokens(self._backend, self.files)
        self._backend.no_truncation()
        self._backend.no_padding()
        bos, eos, pad = (self._token_id(role) for role in ("bos_token", "eos_token", "pad_token"))
        unk = getattr(self._backend.model, "unk_token", None)
        self.unk_id = self._backend.token_to_id(unk) if unk else self._token_id("unk_token")
        framed = self._backend.encode("a").ids
        self._splits = split_long_text.can_split(self._backend) and self._find_frame(framed)
        file_adds_bos = bos is not None and framed[:1] == [bos]
        self.set_bos(bos, file_adds=file_adds_bos, default=file_adds_bos or always_bos)
        self.set_eos_and_pad(eos, pad, file_adds=eos is not None and framed[-1:] == [eos])
        self._special_ids = frozenset(
            i for i, token in self._backend.get_added_tokens_decoder().items() if token.special
        )
        self._tables = self._byte_tables()
        added = self._backend.get_added_tokens_decoder()
        self.added_tokens = {i: (token.content, token.special) for i, token in added.items()}
        self.control_tokens = [text for text, special in self.added_tokens.values() if special]
        if self.files.config.get("split_special_tokens"):
            self._omit_guards()

    def _omit_guards(self) -> None:
        """Let the library remove `GUARD` after its search for special tokens in a text."""
        backend = self._backend
        for token in backend.get_added_tokens_decoder().values():
            if token.special and token.normalized:  # the search would follow the removal
                flags = {name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word")}
                found = tokenizers.AddedToken(token.content, normalized=False, **flags)
                backend.add_special_tokens([found])
        steps = [tokenizers.normalizers.Replace(GUARD, "")]
        if backend.normalizer is not None:
            steps.append(backend.normalizer)
        backend.normalizer = tokenizers.normalizers.Sequence(steps)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        (ids,) = self.encode_batch([text], add_special_tokens=add_special_tokens)
        return ids

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        batch = self._encode(texts, add_special_tokens)
        return [self.framed(ids) for ids in batch] if add_special_tokens else batch

    @no_panic()
    def _encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        """The library's ids."""
        # The "fast" call omits the offsets, which are not used here.
        encode = self._backend.encode_batch_fast
        if not self._splits or max(map(len, texts), default=0) <= split_long_text.LONG:
            return [e.ids for e in encode(texts, add_special_tokens=add_special_tokens)]
        pieces = [split_long_text.pieces(text) for text in texts]
        flat = list(chain.from_iterable(pieces))
        # Several texts use the library's threads. The pieces of one text reuse the same memory.
        encodings = (
            encode(flat, add_special_tokens=False)
            if len(texts) > 1
            else (encode([piece], add_special_tokens=False)[0] for piece in flat)
        )
        in_order = iter(encodings)
        batch = [list(chain.from_iterable(next(in_order).ids for _ in of)) for of in pieces]
        if add_special_tokens:
            return [[*self._before, *ids, *self._after] for ids in batch]
        return batch

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        if self._tables is None:
            # The library rejects negative ids and ignores ids beyond its vocabulary.
            known = [i for i in ids if i >= 0]
            with no_panic():
                return str(self._backend.decode(known, skip_special_tokens=skip_special_tokens))
        stream = self.stream(skip_special_tokens=skip_special_tokens)
        return stream.feed(ids) + stream.finish()

    def stream(self, *, skip_special_tokens: bool = True, first: bool = True) -> StreamDecoder:
        if self._tables is None:
            return super().stream(skip_special_tokens=skip_special_tokens, first=first)
        return ByteStreamDecoder(
            self._tables[skip_special_tokens], strip_first_space=first and self._strip_first_space
        )

    def token_bytes(self, token_id: int) -> bytes:
        if self._tables is None:
            return super().token_bytes(token_id)
        return self._tables[False][token_id]

    @no_panic()
    def offsets(self, text: str) -> list[tuple[int, int, int]]:
        encoding = self._backend.encode(text, add_special_tokens=False)
        return [(i, *span) for i, span in zip(encoding.ids, encoding.offsets, strict=True)]

    def _find_frame(self, framed: list[int]) -> bool:
        """Find the ids that the library adds before and after a text; False if that is ambiguous.

        Args:
            framed: the library's ids of "a", with special tokens.
        """
        bare = self._backend.encode("a", add_special_tokens=False).ids
        ends = range(len(bare), len(framed) + 1)
        matches = [end for end in ends if bare and framed[end - len(bare) : end] == bare]
        if len(matches) != 1:
            return False
        (end,) = matches
        self._before, self._after = framed[: end - len(bare)], framed[end:]
        return True

    def _token_id(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self._backend.token_to_id(token)

    def _byte_tables(self) -> dict[bool, TokenBytes] | None:
        """Tables that keep special tokens (key False) or skip them (key True).

        None if this file's decoder does not work on bytes; then the library has to decode.
        """
        kind = _byte_decoder(self._backend.decoder)
        if kind is None:
            return None
        to_bytes, self._strip_first_space = kind
        piece_of = self._backend.id_to_token
        added = self._backend.get_added_tokens_decoder() if to_bytes is byte_level_bytes else {}

        def token_bytes(token_id: int) -> bytes | None:
            if token_id in added:  # literal text, also if all its letters represent bytes
                return added[token_id].content.encode()
            piece = piece_of(token_id)
            return None if piece is None else to_bytes(piece)

        return {False: TokenBytes(token_bytes), True: TokenBytes(token_bytes, self._special_ids)}


def load_backend(path: Path) -> tokenizers.Tokenizer:
    """Load a tokenizer.json; TokenizerError if *path* is missing or does not load."""
    if not path.is_file():
        raise TokenizerError(f"{path} does not exist; set tokenizer_dir to a folder that has it")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(
            f"{path} does not load with tokenizers {tokenizers.__version__}: {error}; restore the "
            "file, or, if a newer tokenizers wrote it, install that"
        ) from error


def _add_tokens(backend: tokenizers.Tokenizer, files: TokenizerFiles) -> None:
    """Add the tokens that transformers adds to those of tokenizer.json, in the same order.

    These are tokens of the other JSON files that tokenizer.json does not have, does not mark as
    special although the files do, or has with other flags than added_tokens_decoder.
    """
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    decoder = files.config.get("added_tokens_decoder") or {}
    for token in files.added:
        flags = dataclasses.asdict(token)
        del flags["text"], flags["id"]
        old = known.get(token.text)
        changed = [name for name, value in flags.items() if old and getattr(old, name) != value]
        if (
            old is None
            or (changed and str(token.id) in decoder)
            or ("special" in changed and token.special)
        ):
            add = backend.add_special_tokens if token.special else backend.add_tokens
            add([tokenizers.AddedToken(token.text, **flags)])


def _byte_decoder(decoder: Any) -> tuple[Callable[[str], bytes], bool] | None:
    """The function token -> bytes, and whether the first space of a text is dropped.

    Known for the decoders of byte-level BPE and of Llama-style SentencePiece conversions; None for
    all others.
    """
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
