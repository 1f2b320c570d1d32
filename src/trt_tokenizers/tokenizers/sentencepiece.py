"""SentencePiece .model files through the `sentencepiece` library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import sentencepiece

from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.files import files_like
from trt_tokenizers.tokenizers.segmented import SegmentedTokenizer
from trt_tokenizers.tokenizers.tiktoken import rank_file
from trt_tokenizers.tokenizers.vocabulary import sentencepiece_bytes

#: ``normalizer_spec { add_dummy_prefix: false }`` of sentencepiece_model.proto. Appended to a
#: serialized model it overrides that one field (concatenated protobuf messages are merged), which
#: spares the protobuf module, whose generated code often does not fit the installed runtime.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
_MODEL_FILE = re.compile(r"\.model(\.v\d+(m\d+)?)?$")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class SentencePieceTokenizer(SegmentedTokenizer):
    """A bare .model file, with the special tokens of the JSON files beside it if there are any.

    Special tokens written out in a text become their ids. Only the beginning of a text gets
    SentencePiece's dummy space, not what follows a special token: transformers' ``legacy=False``;
    the setting ``legacy`` turns that round. BOS is added if the model file defines one, unless
    ``add_bos`` says otherwise; EOS only where ``add_eos`` or the files' ``add_eos_token`` say so.
    """

    def __init__(
        self,
        settings: TokenizerSettings,
        *,
        adds_eos: bool = False,
        legacy: bool = False,
        sentinels: int = 0,
    ) -> None:
        """
        Args:
            settings: whose folder holds the .model file.
            adds_eos: this type ends plain prompts with EOS.
            legacy: what holds where the setting says nothing.
            sentinels: ``<extra_id_0>`` … that follow the model file's pieces, last one first.

        Raises:
            TokenizerError: no .model file, several, or one that does not load.
        """
        super().__init__(settings)
        path = _model_file(self.files.directory)
        self.vocabulary_files = (path.name,)
        try:
            sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            mend = "restore the file"
            if rank_file(self.files.directory) == path:
                mend = "it is a tiktoken rank file: set tokenizer_type to tiktoken"
            raise TokenizerError(f"{path} does not load: {error}; {mend}") from error
        self._sp = sp
        self._legacy = legacy if settings.legacy is None else settings.legacy
        self._sp_inside = sentencepiece.SentencePieceProcessor(
            model_proto=sp.serialized_model_proto() + _NO_DUMMY_PREFIX
        )
        # Such a model drops leading spaces and would drop one that stands after a special token.
        self._drops_spaces = self._sp_inside.encode("  a") == self._sp_inside.encode("a")
        pieces = sp.get_piece_size()
        special = {sp.id_to_piece(i): i for i in range(pieces) if sp.is_control(i)}
        for number in range(sentinels):
            special[f"<extra_id_{number}>"] = pieces + sentinels - 1 - number
        for token in self.files.added:
            at = sp.piece_to_id(token.text) if token.id is None else token.id
            if token.special and (at >= pieces or sp.id_to_piece(at) == token.text):
                special[token.text] = at
        added = {token.text: token.id for token in self.files.added if token.id is not None}
        self._added = {i: text for text, i in (special | added).items() if i >= pieces}
        self._set_vocabulary(
            special,
            self._bytes_of,
            added=self.files.added,
            hidden=frozenset({sp.unk_id()}),
            strip_first_space=sp.encode("a", out_type=str)[0].startswith(_SPACE),
        )
        self.unk_id = sp.unk_id()
        self._set_special_ids(special, adds_eos)

    def _set_special_ids(self, special: dict[str, int], adds_eos: bool) -> None:
        def token_id(role: str, own: int) -> int | None:
            if own >= 0:
                self.special_tokens.setdefault(role, self._sp.id_to_piece(own))
            return special.get(self.special_tokens.get(role, ""), own if own >= 0 else None)

        bos = token_id("bos_token", self._sp.bos_id())
        self.set_bos(bos, file_adds=False, default=bos is not None)
        self.set_eos_and_pad(
            token_id("eos_token", self._sp.eos_id()),
            token_id("pad_token", self._sp.pad_id()),
            default=bool(self.files.config.get("add_eos_token", adds_eos)),
        )

    def _encode_segment(self, text: str, *, first: bool) -> list[int]:
        ids: list[int] = self._model_for(text, first=first).encode(text)
        return ids

    def _model_for(self, text: str, *, first: bool) -> Any:
        outside = first or self._legacy or (self._drops_spaces and text[0].isspace())
        return self._sp if outside else self._sp_inside

    def offsets(self, text: str) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        for start, end, token_id in self._segments(text):
            if token_id is not None:
                found.append((token_id, start, end))
                continue
            segment = text[start:end]
            model = self._model_for(segment, first=start == 0)
            made = model.encode(segment, out_type="immutable_proto").pieces
            spans: list[tuple[int, int, int]] = []
            for piece in reversed(made):
                span = (start + piece.begin, start + piece.end)
                if piece.begin == piece.end and self._sp.is_byte(piece.id) and spans:
                    span = spans[-1][1:]  # the library gives the character to its last byte only
                spans.append((piece.id, *span))
            found += reversed(spans)
        return found

    def _bytes_of(self, token_id: int) -> bytes | None:
        if token_id < self._sp.get_piece_size():
            return sentencepiece_bytes(self._sp.id_to_piece(token_id))
        token = self._added.get(token_id)
        return None if token is None else token.encode()


def _model_file(directory: Path) -> Path:
    """tokenizer.model, or the one .model file, which may end in a version as Mistral's do."""
    preferred = directory / "tokenizer.model"
    if preferred.is_file():
        return preferred
    found = [path for path in files_like(directory, "*") if _MODEL_FILE.search(path.name)]
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
