"""Type ``tiktoken``: a rank file (qwen.tiktoken, Llama 3's tokenizer.model) and its pattern."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.files import files_like
from trt_tokenizers.tokenizers.segmented import SegmentedTokenizer

#: Longer runs of spaces overflow the stack of tiktoken's regular expressions and end the process.
#: Llama 3's own code splits runs of spaces and of non-spaces at this length, so ids are the same.
_LONGEST_RUN = 25_000
_RUN = re.compile(r"\s+|\S+")

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"{_CASED}*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+(?i:{_CONTRACTIONS})?"
    rf"|{_CASED}+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*(?i:{_CONTRACTIONS})?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _by_letters(digits: str) -> str:
    return (
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


class Family(NamedTuple):
    """Facts about a model family that its rank file does not contain.

    Attributes:
        pattern: regular expression that splits a text; each piece is encoded separately.
        ranks: number of lines of the rank file, which identifies the family; 0: unknown.
        special: number of ranks -> special tokens and their ids.
        bos, eos, pad: texts of special tokens; BOS is added if it is not None.
        more_eos: other tokens that end an answer.
        nfc: texts are normalized to NFC first.
    """

    pattern: str
    ranks: int
    special: Callable[[int], dict[str, int]]
    bos: str | None
    eos: str
    pad: str | None = None
    more_eos: tuple[str, ...] = ()
    nfc: bool = False


def _numbered(*tokens: str) -> Callable[[int], dict[str, int]]:
    return lambda first: {token: first + at for at, token in enumerate(tokens)}


def _reserved(prefix: str, first: int, last: int) -> list[str]:
    return [f"<|{prefix}reserved_special_token_{n}|>" for n in range(first, last + 1)]


FAMILIES = {
    "qwen": Family(
        _by_letters(r"\p{N}"), 151_643,
        _numbered("<|endoftext|>", "<|im_start|>", "<|im_end|>",
                  *(f"<|extra_{n}|>" for n in range(205))),
        None, "<|endoftext|>", more_eos=("<|im_end|>",), nfc=True,
    ),
    "llama3": Family(
        _by_letters(r"\p{N}{1,3}"), 128_000,
        _numbered("<|begin_of_text|>", "<|end_of_text|>", *_reserved("", 0, 1),
                  "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>",
                  "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>",
                  *_reserved("", 2, 245)),
        "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>",
        ("<|eom_id|>", "<|eot_id|>"),
    ),
    "llama4": Family(
        _O200K, 200_000,
        _numbered("<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>",
                  "<|fim_suffix|>", "<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>",
                  "<|step|>", *_reserved("text_post_train_", 0, 5), "<|python_start|>",
                  "<|python_end|>", "<|finetune_right_pad|>",
                  *_reserved("text_post_train_", 8, 68), "<|image_start|>", "<|image_end|>",
                  *_reserved("vision_", 0, 1), "<|tile_x_separator|>", "<|tile_y_separator|>",
                  *_reserved("vision_", 2, 5), "<|image|>", *_reserved("vision_", 6, 6),
                  "<|patch|>", *_reserved("vision_", 7, 1047), *_reserved("reasoning_", 0, 7),
                  "<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>",
                  *_reserved("", 0, 903)),
        "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad|>", ("<|eom|>", "<|eot|>"),
    ),
    "cl100k": Family(
        _by_letters(r"\p{N}{1,3}"), 100_256,
        lambda _: {"<|endoftext|>": 100_257, "<|fim_prefix|>": 100_258, "<|fim_middle|>": 100_259,
                   "<|fim_suffix|>": 100_260, "<|endofprompt|>": 100_276},
        None, "<|endoftext|>",
    ),
    "o200k": Family(
        _O200K, 199_998, lambda _: {"<|endoftext|>": 199_999, "<|endofprompt|>": 200_018},
        None, "<|endoftext|>",
    ),
    "gpt2": Family(
        rf"(?:{_CONTRACTIONS})| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+", 50_256,
        _numbered("<|endoftext|>"), None, "<|endoftext|>",
    ),
}  # fmt: skip


class TiktokenTokenizer(SegmentedTokenizer):
    """Gives the ids of the `tiktoken` library, also for special tokens written in a text.

    The family (`FAMILIES`) defines the pattern and the special tokens. ``tiktoken_pattern`` names
    it; otherwise the number of ranks identifies it. For other files ``tiktoken_pattern`` is the
    regular expression, and tokenizer_config.json has the special tokens (added_tokens_decoder).
    """

    def __init__(self, settings: TokenizerSettings) -> None:
        """Load the rank file of the settings' folder.

        Raises:
            TokenizerError: no rank file, a broken one, an unknown family, or a pattern that does
                not compile.
        """
        import tiktoken

        super().__init__(settings)
        path = rank_file(self.files.directory)
        if path is None:
            raise TokenizerError(
                f"tokenizer type 'tiktoken' needs one rank file (*.tiktoken, *.model) in "
                f"{self.files.directory}; set tokenizer_dir to the folder that has it"
            )
        self.vocabulary_files = (path.name,)
        ranks = _read_ranks(path)
        family = _family(settings.tiktoken_pattern, len(ranks), path)
        special = family.special(len(ranks))
        special |= {token.text: token.id for token in self.files.added if token.id is not None}
        try:
            self._encoding = tiktoken.Encoding(
                path.name, pat_str=family.pattern, mergeable_ranks=ranks, special_tokens={}
            )
        except ValueError as error:
            raise TokenizerError(
                f"tiktoken_pattern {family.pattern!r} does not compile: {error}; correct it"
            ) from None
        self._nfc = family.nfc
        bytes_of = {rank: token for token, rank in ranks.items()}
        bytes_of.update({i: token.encode() for token, i in special.items()})
        self._set_vocabulary(special, bytes_of.get, added=self.files.added)
        roles = {"bos_token": family.bos, "eos_token": family.eos, "pad_token": family.pad}
        for role, token in roles.items():
            if token in special:
                self.special_tokens.setdefault(role, token)
        bos, eos, pad = (special.get(self.special_tokens.get(role, "")) for role in roles)
        self.set_bos(bos, default=family.bos is not None)
        self.set_eos_and_pad(eos, pad)
        more = [special[token] for token in family.more_eos if token in special]
        self.eos_ids = tuple(dict.fromkeys([*self.eos_ids, *more]))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        if self._nfc:  # before the search: a combining mark may change a token's last character
            text = unicodedata.normalize("NFC", text)
        return super().encode(text, add_special_tokens=add_special_tokens)

    def _encode_segment(self, text: str, *, first: bool) -> list[int]:
        return [i for piece in bounded_runs(text) for i in self._encoding.encode_ordinary(piece)]


def bounded_runs(text: str) -> Iterator[str]:
    """Split *text* within runs of more than 25,000 spaces or of more than 25,000 non-spaces."""
    start = 0
    if len(text) > _LONGEST_RUN:
        for run in _RUN.finditer(text):
            for end in range(run.start() + _LONGEST_RUN, run.end(), _LONGEST_RUN):
                yield text[start:end]
                start = end
    yield text[start:]


def rank_file(directory: Path) -> Path | None:
    """The folder's rank file, if exactly one file has the format; None otherwise."""
    found = [
        path
        for pattern in ("*.tiktoken", "*.model")
        for path in files_like(directory, pattern)
        if _is_rank_file(path)
    ]
    return found[0] if len(found) == 1 else None


def _is_rank_file(path: Path) -> bool:
    with path.open("rb") as file:
        line = file.readline(1024)
    return re.fullmatch(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n?", line) is not None


def _read_ranks(path: Path) -> dict[bytes, int]:
    try:
        lines = (line.split() for line in path.read_bytes().splitlines() if line)
        return {base64.b64decode(token): int(rank) for token, rank in lines}
    except (ValueError, binascii.Error) as error:
        raise TokenizerError(f"{path} is not a rank file: {error}; restore the file") from None


def _family(named: str, ranks: int, path: Path) -> Family:
    if named in FAMILIES:
        return FAMILIES[named]
    if named:
        return Family(named, 0, lambda _: {}, None, "<|endoftext|>")
    for family in FAMILIES.values():
        if family.ranks == ranks:
            return family
    raise TokenizerError(
        f"{path} has {ranks} ranks, which no known model family has; set tiktoken_pattern to "
        f"{', '.join(FAMILIES)} or to the regular expression in the model's code"
    )
