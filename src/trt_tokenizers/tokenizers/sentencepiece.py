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
#: serialized model it overrides that field, because concatenated protobuf messages merge. This
#: avoids the protobuf module, whose generated code often does not fit the installed runtime.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
_MODEL_FILE = re.compile(r"\.model(\.v\d+(m\d+)?)?$")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class SentencePieceTokenizer(SegmentedTokenizer):
    """A .model file, with the special tokens of the JSON files beside it.

    Special tokens written in a text become their ids. Only the beginning of a text gets
    SentencePiece's dummy space, and text after a special token does not: transformers'
    ``legacy=False``. The setting ``legacy`` true changes this. BOS is added if the model file
    defines one, unless ``add_bos`` says otherwise; EOS only if ``add_eos`` or the files'
    ``add_eos_token`` requests it.
    """

    def __init__(
        self,
        settings: TokenizerSettings,
        *,
        adds_eos: bool = False,
        legacy: bool = False,
        sentinels: int = 0,
    ) -> None:
        """Load the .model file of the settings' folder.

        Args:
            settings: name the folder.
            adds_eos: this type ends plain prompts with EOS.
            legacy: used if the setting ``legacy`` is empty.
            sentinels: number of ``<extra_id_0>`` … after the model file's pieces, in descending
                order.

        Raises:
            TokenizerError: no .model file, several, or one that does not load.
        """
        super().__init__(settings)
        path = _model_file(self.files.directory)
        self.vocabulary_files = (path.name,)
        try:
            sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            fix = "restore the file"
            if rank_file(self.files.directory) == path:
                fix = "it is a tiktoken rank file: set tokenizer_type to tiktoken"
            raise TokenizerError(f"{path} does not load: {error}; {fix}") from error
        self._sp = sp
        self._legacy = legacy if settings.legacy is None else settings.legacy
        self._sp_inside = sentencepiece.SentencePieceProcessor(
            model_proto=sp.serialized_model_proto() + _NO_DUMMY_PREFIX
        )
        # Such a model would also drop leading spaces that follow a special token.
        self._drops_spaces = self._sp_inside.encode("  a") == self._sp_inside.encode("a")
        pieces = sp.get_piece_size()
        special = {sp.id_to_piece(i): i for i in range(pieces) if sp.is_control(i)}
        for number in range(sentinels):
            special[f"<extra_id_{number}>"] = pieces + sentinels - 1 - number
        for token in self.files.added:
            token_id = sp.piece_to_id(token.text) if token.id is None else token.id
            if token.special and (token_id >= pieces or sp.id_to_piece(token_id) == token.text):
                special[token.text] = token_id
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
        def token_id(role: str, of_model: int) -> int | None:
            if of_model >= 0:
                self.special_tokens.setdefault(role, self._sp.id_to_piece(of_model))
            return special.get(
                self.special_tokens.get(role, ""), of_model if of_model >= 0 else None
            )

        bos = token_id("bos_token", self._sp.bos_id())
        self.set_bos(bos, default=bos is not None)
        self.set_eos_and_pad(
            token_id("eos_token", self._sp.eos_id()),
            token_id("pad_token", self._sp.pad_id()),
            default=bool(self.files.config.get("add_eos_token", adds_eos)),
        )

    def _encode_segment(self, text: str, *, first: bool) -> list[int]:
        return list(self._model_for(text, first=first).encode(text))

    def _model_for(self, text: str, *, first: bool) -> Any:
        with_dummy = first or self._legacy or (self._drops_spaces and text[0].isspace())
        return self._sp if with_dummy else self._sp_inside

    def offsets(self, text: str) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        for start, end, token_id in self._segments(text):
            if token_id is not None:
                found.append((token_id, start, end))
                continue
            segment = text[start:end]
            model = self._model_for(segment, first=start == 0)
            spans: list[tuple[int, int, int]] = []
            for piece_id, begin, stop in reversed(library_offsets(model, segment)):
                span = (start + begin, start + stop)
                if begin == stop and self._sp.is_byte(piece_id) and spans:
                    span = spans[-1][1:]  # the library assigns a character to its last byte only
                spans.append((piece_id, *span))
            found += reversed(spans)
        return found

    def _bytes_of(self, token_id: int) -> bytes | None:
        if token_id < self._sp.get_piece_size():
            return sentencepiece_bytes(self._sp.id_to_piece(token_id))
        token = self._added.get(token_id)
        return None if token is None else token.encode()


def library_offsets(model: Any, text: str) -> list[tuple[int, int, int]]:
    """(id, start, end) of each piece of *text*, in characters, as `sentencepiece` gives them."""
    if hasattr(model, "encode_as_offset_mapping"):  # 0.2.3 and later
        mapping = model.encode(text, out_type="offset_mapping")
        return [(i, *span) for i, span in zip(mapping["ids"], mapping["offsets"], strict=True)]
    pieces = model.encode(text, out_type="immutable_proto").pieces
    return [(piece.id, piece.begin, piece.end) for piece in pieces]


def _model_file(directory: Path) -> Path:
    """tokenizer.model, or the only .model file; its name may end in a version, as Mistral's do."""
    preferred = directory / "tokenizer.model"
    if preferred.is_file():
        return preferred
    found = [path for path in files_like(directory, "*") if _MODEL_FILE.search(path.name)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise TokenizerError(
            f"{directory} has no .model file; set tokenizer_dir to the folder that has it"
        )
    raise TokenizerError(
        f"{directory} has several .model files ({', '.join(p.name for p in found)}); "
        "keep one, or name it tokenizer.model"
    )
