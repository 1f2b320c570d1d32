"""SentencePiece .model files through the `sentencepiece` library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from trt_tokenizers.detokenize import ByteStreamDecoder, StreamDecoder
from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.files import read_json
from trt_tokenizers.tokenizers.vocabulary import TokenBytes, sentencepiece_bytes

#: ``normalizer_spec { add_dummy_prefix: false }`` of sentencepiece_model.proto. Appended to a
#: serialized model it overrides that one field (concatenated protobuf messages are merged), which
#: spares the protobuf module, whose generated code often does not fit the installed runtime.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class SentencePieceTokenizer(Tokenizer):
    """A bare .model file, with the special tokens of the JSON files beside it if there are any.

    Special tokens written out in a text become their ids. Only the beginning of a text gets
    SentencePiece's dummy space, not what follows a special token: transformers' ``legacy=False``.
    BOS is added if the model file defines one, unless ``add_bos`` says otherwise.
    """

    def __init__(self, settings: TokenizerSettings) -> None:
        """
        Raises:
            TokenizerError: no .model file, several, or one that does not load.
        """
        super().__init__(settings)
        path = _model_file(self.files.directory)
        self.vocabulary_files = (path.name,)
        try:
            sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise TokenizerError(f"{path} does not load: {error}; restore the file") from error
        self._dummy_prefix = " " if sp.encode("a", out_type=str)[0].startswith(_SPACE) else ""
        self._sp = sentencepiece.SentencePieceProcessor(
            model_proto=sp.serialized_model_proto() + _NO_DUMMY_PREFIX
        )
        controls = {i for i in range(sp.get_piece_size()) if sp.is_control(i)}
        added = _added_tokens(self.files.directory)
        self._added = {i: token for token, i in added.items() if i >= sp.get_piece_size()}
        self._special_ids = frozenset(controls | {sp.unk_id()} | set(added.values()))
        self._id_of_special = {sp.id_to_piece(i): i for i in controls} | added
        self._find_special = re.compile(
            "|".join(map(re.escape, sorted(self._id_of_special, key=len, reverse=True))) or r"(?!)"
        )
        self._set_special_ids()
        self._tables = {
            skip: TokenBytes(self._piece, sentencepiece_bytes, self._special_ids if skip else ())
            for skip in (False, True)
        }

    def _set_special_ids(self) -> None:
        def token_id(role: str, own: int) -> int | None:
            if own >= 0:
                self.special_tokens.setdefault(role, self._sp.id_to_piece(own))
            return self._id_of_special.get(
                self.special_tokens.get(role, ""), own if own >= 0 else None
            )

        bos = token_id("bos_token", self._sp.bos_id())
        self._set_bos(bos, file_adds=False, default=bos is not None)
        eos = token_id("eos_token", self._sp.eos_id())
        self._set_eos_and_pad(eos, token_id("pad_token", self._sp.pad_id()))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = []
        at, prefix = 0, self._dummy_prefix
        for match in self._find_special.finditer(text):
            ids += self._encode_segment(prefix, text[at : match.start()])
            ids.append(self._id_of_special[match.group()])
            at, prefix = match.end(), ""
        ids += self._encode_segment(prefix, text[at:])
        if add_special_tokens and self.adds_bos and self.bos_id is not None:
            ids.insert(0, self.bos_id)
        return ids

    def _encode_segment(self, prefix: str, text: str) -> list[int]:
        if not text:
            return []
        ids: list[int] = self._sp.encode(prefix + text)
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        stream = self.stream(skip_special_tokens=skip_special_tokens)
        return stream.feed(ids) + stream.finish()

    def stream(self, *, skip_special_tokens: bool = True, first: bool = True) -> StreamDecoder:
        return ByteStreamDecoder(
            self._tables[skip_special_tokens], strip_first_space=first and bool(self._dummy_prefix)
        )

    def _piece(self, token_id: int) -> str | None:
        if token_id < self._sp.get_piece_size():
            piece: str = self._sp.id_to_piece(token_id)
            return piece
        return self._added.get(token_id)


def _model_file(directory: Path) -> Path:
    """tokenizer.model, or the one file that ends in .model."""
    preferred = directory / "tokenizer.model"
    if preferred.is_file():
        return preferred
    found = sorted(directory.glob("*.model"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise TokenizerError(
            f"{directory} holds no .model file; set tokenizer_dir to the folder that does"
        )
    raise TokenizerError(
        f"{directory} holds several .model files ({', '.join(p.name for p in found)}); "
        "keep one, or name it tokenizer.model"
    )


def _added_tokens(directory: Path) -> dict[str, int]:
    """Token -> id of added_tokens.json, and of tokenizer_config.json's added_tokens_decoder."""
    added: dict[str, int] = read_json(directory / "added_tokens.json")
    decoder = read_json(directory / "tokenizer_config.json").get("added_tokens_decoder", {})
    added.update({entry["content"]: int(i) for i, entry in decoder.items()})
    return added
