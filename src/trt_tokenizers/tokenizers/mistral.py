"""Type ``mistral``: Mistral's files, SentencePiece (tokenizer.model.v3, …) and tekken.json."""

from __future__ import annotations

from pathlib import Path

from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.files import files_like
from trt_tokenizers.tokenizers.segmented import SegmentedTokenizer
from trt_tokenizers.tokenizers.tiktoken import bounded_runs


def load(settings: TokenizerSettings) -> Tokenizer:
    """Load tekken.json through mistral-common, or else the SentencePiece file.

    BOS is added unless ``add_bos`` is false.

    Raises:
        TokenizerError: the folder has neither, or it does not load.
    """
    if path := tekken_file(Path(settings.tokenizer_dir)):
        return TekkenTokenizer(settings, path)
    from trt_tokenizers.tokenizers.sentencepiece import SentencePieceTokenizer

    return SentencePieceTokenizer(settings)


def tekken_file(directory: Path) -> Path | None:
    """tekken.json, or the folder's only tekken*.json; None if there is none."""
    found = files_like(directory, "tekken*.json")
    preferred = directory / "tekken.json"
    return preferred if preferred in found else found[0] if len(found) == 1 else None


class TekkenTokenizer(SegmentedTokenizer):
    """Gives mistral-common's ids; in addition, special tokens written in a text become their ids.

    mistral-common inserts special tokens only through its message types.
    """

    def __init__(self, settings: TokenizerSettings, path: Path) -> None:
        """Load *path*; TokenizerError if it does not load."""
        from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        super().__init__(settings)
        self.vocabulary_files = (path.name,)
        try:
            tekken = Tekkenizer.from_file(path)
        except (AssertionError, KeyError, ValueError) as error:
            raise TokenizerError(f"{path} does not load: {error!r}; restore the file") from error
        self._tekken = tekken
        special = {tekken.id_to_piece(i): i for i in tekken.special_ids}

        def token_bytes(token_id: int) -> bytes | None:
            if token_id >= tekken.n_words:
                return None
            return bytes(tekken.id_to_byte_piece(token_id, SpecialTokenPolicy.KEEP))

        self._set_vocabulary(special, token_bytes)
        for role, token_id in (("bos_token", tekken.bos_id), ("eos_token", tekken.eos_id),
                               ("pad_token", tekken.pad_id)):  # fmt: skip
            self.special_tokens.setdefault(role, tekken.id_to_piece(token_id))
        self.set_bos(tekken.bos_id, default=True)
        self.set_eos_and_pad(tekken.eos_id, tekken.pad_id)

    def _encode_segment(self, text: str, *, first: bool) -> list[int]:
        pieces = bounded_runs(text)
        return [i for piece in pieces for i in self._tekken.encode(piece, bos=False, eos=False)]
