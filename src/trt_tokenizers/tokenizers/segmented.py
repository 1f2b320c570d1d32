"""Base class of tokenizers whose library encodes plain text only: finds special tokens."""

from __future__ import annotations

import re
import unicodedata
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from trt_tokenizers.tokenizers.base import GUARD, Tokenizer, no_panic
from trt_tokenizers.tokenizers.detokenize import ByteStreamDecoder, StreamDecoder
from trt_tokenizers.tokenizers.files import AddedToken
from trt_tokenizers.tokenizers.vocabulary import TokenBytes, any_of

_WHITESPACE = re.compile(r"\s+")
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_ENCLOSED_LETTERS = re.compile(
    "[\u24b6-\u24e9\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189]"
)


class SegmentedTokenizer(Tokenizer):
    """Special tokens written in a text become their ids; the subclass encodes the segments between.

    Every id represents bytes, so streams are exact.
    """

    def _set_vocabulary(
        self,
        special: Mapping[str, int],
        token_bytes: Callable[[int], bytes | None],
        *,
        added: Iterable[AddedToken] = (),
        hidden: frozenset[int] = frozenset(),
        strip_first_space: bool = False,
    ) -> None:
        """Set the vocabulary.

        Args:
            special: special tokens and their ids.
            token_bytes: bytes of an id, including special tokens; None outside the vocabulary.
            added: more tokens to find in texts; those that are not special appear in answers.
            hidden: more ids to skip together with the special tokens.
            strip_first_space: the tokenizer itself adds the first space of a text.
        """
        ids = [(special.get(t.text) if t.id is None else t.id, t) for t in added]
        numbered = {i: token for i, token in ids if i is not None}
        self._written = {**special, **{token.text: i for i, token in numbered.items()}}
        self._find_written = re.compile(any_of(self._written))
        self._lstrip = frozenset(i for i, token in numbered.items() if token.lstrip)
        self._rstrip = frozenset(i for i, token in numbered.items() if token.rstrip)
        self._single_word = frozenset(i for i, token in numbered.items() if token.single_word)
        self._strip_first_space = strip_first_space
        shown = {i for i, token in numbered.items() if not token.special}
        skipped = hidden | (set(self._written.values()) - shown)
        self.control_tokens = [text for text, i in self._written.items() if i not in shown]
        self.added_tokens = {i: (text, i not in shown) for text, i in self._written.items()}
        self._tables = {False: TokenBytes(token_bytes), True: TokenBytes(token_bytes, skipped)}

    @abstractmethod
    def _encode_segment(self, text: str, *, first: bool) -> list[int]:
        """Ids of *text*, which is not empty and contains no special tokens.

        Args:
            text: a segment of the prompt.
            first: the segment begins the prompt.
        """

    @no_panic()
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = []
        for start, end, token_id in self._segments(text):
            if token_id is not None:
                ids.append(token_id)
            elif segment := text[start:end].replace(GUARD, ""):
                ids += self._encode_segment(segment, first=start == 0)
        if add_special_tokens and self.adds_bos and self.bos_id is not None:
            ids.insert(0, self.bos_id)
        if add_special_tokens and self.adds_eos:
            ids.append(self.eos_ids[0])
        return ids

    def _segments(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """(start, end, id) of each special token in *text*; id is None for the text between."""
        at = 0
        for match in self._find_written.finditer(text):
            token_id = self._written[match.group()]
            start, end = match.span()
            neighbours = text[max(0, start - 1) : start] + text[end : end + 1]
            if token_id in self._single_word and any(map(_is_word_character, neighbours)):
                continue
            if token_id in self._lstrip:
                start = at + len(text[at:start].rstrip())
            if token_id in self._rstrip and (whitespace := _WHITESPACE.match(text, end)):
                end = whitespace.end()
            if at < start:
                yield at, start, None
            yield start, end, token_id
            at = end
        if at < len(text):
            yield at, len(text), None

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        stream = self.stream(skip_special_tokens=skip_special_tokens)
        return stream.feed(ids) + stream.finish()

    def stream(self, *, skip_special_tokens: bool = True, first: bool = True) -> StreamDecoder:
        return ByteStreamDecoder(
            self._tables[skip_special_tokens], strip_first_space=first and self._strip_first_space
        )

    def token_bytes(self, token_id: int) -> bytes:
        return self._tables[False][token_id]


def _is_word_character(character: str) -> bool:
    """Whether ``\\w`` of Rust's regular expressions matches, which `tokenizers` uses.

    Python's own ``\\w`` excludes marks and includes fractions.
    """
    category = unicodedata.category(character)
    return (
        category[0] in "LM"
        or category in ("Nd", "Nl", "Pc")
        or character in _JOINERS
        or (category == "So" and _ENCLOSED_LETTERS.match(character) is not None)
    )
