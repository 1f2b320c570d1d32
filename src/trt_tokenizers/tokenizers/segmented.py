"""What tokenizers share whose library knows plain text only: special tokens are found here."""

from __future__ import annotations

import re
import unicodedata
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from trt_tokenizers.tokenizers.base import Tokenizer
from trt_tokenizers.tokenizers.detokenize import ByteStreamDecoder, StreamDecoder
from trt_tokenizers.tokenizers.files import AddedToken
from trt_tokenizers.tokenizers.vocabulary import TokenBytes

_BLANKS = re.compile(r"\s+")
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_LETTERS_IN_A_FRAME = re.compile(
    "[\u24b6-\u24e9\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189]"
)


class SegmentedTokenizer(Tokenizer):
    """Special tokens written out in a text become their ids; the segments between them are
    encoded by the subclass. Every id stands for bytes, so streams are exact."""

    def _set_vocabulary(
        self,
        special: Mapping[str, int],
        token_bytes: Callable[[int], bytes | None],
        *,
        added: Iterable[AddedToken] = (),
        hidden: frozenset[int] = frozenset(),
        strip_first_space: bool = False,
    ) -> None:
        """
        Args:
            special: special tokens and their ids.
            token_bytes: bytes of an id, special ones included; None outside the vocabulary.
            added: tokens that are found in texts, too; those that are not special are shown.
            hidden: further ids that are skipped with the special tokens.
            strip_first_space: a text's first space is the tokenizer's own.
        """
        numbered = {token.id: token for token in added if token.id is not None}
        self._written = {**special, **{token.text: i for i, token in numbered.items()}}
        self._find_written = re.compile(any_of(self._written))
        self._lstrip = frozenset(i for i, token in numbered.items() if token.lstrip)
        self._rstrip = frozenset(i for i, token in numbered.items() if token.rstrip)
        self._alone = frozenset(i for i, token in numbered.items() if token.single_word)
        self._strip_first_space = strip_first_space
        shown = {i for i, token in numbered.items() if not token.special}
        skipped = hidden | (set(self._written.values()) - shown)
        self._tables = {False: TokenBytes(token_bytes), True: TokenBytes(token_bytes, skipped)}

    @abstractmethod
    def _encode_segment(self, text: str, *, first: bool) -> list[int]:
        """Ids of *text*, which is not empty and holds no special tokens.

        Args:
            text: a piece of the prompt.
            first: the prompt begins with it.
        """

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = []
        for start, end, token_id in self._segments(text):
            if token_id is None:
                ids += self._encode_segment(text[start:end], first=start == 0)
            else:
                ids.append(token_id)
        if add_special_tokens and self.adds_bos and self.bos_id is not None:
            ids.insert(0, self.bos_id)
        if add_special_tokens and self.adds_eos:
            ids.append(self.eos_ids[0])
        return ids

    def _segments(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """Start, end and id of each token that is written out, and, with None, of the segments
        between them."""
        at = 0
        for match in self._find_written.finditer(text):
            token_id = self._written[match.group()]
            start, end = match.span()
            around = text[max(0, start - 1) : start] + text[end : end + 1]
            if token_id in self._alone and any(map(_of_a_word, around)):
                continue
            if token_id in self._lstrip:
                start = at + len(text[at:start].rstrip())
            if token_id in self._rstrip and (blanks := _BLANKS.match(text, end)):
                end = blanks.end()
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


def _of_a_word(character: str) -> bool:
    """As \\w of Rust's regular expressions has it, by which `tokenizers` tells; Python's own leaves
    marks out and takes fractions."""
    category = unicodedata.category(character)
    return (
        category[0] in "LM"
        or category in ("Nd", "Nl", "Pc")
        or character in _JOINERS
        or (category == "So" and _LETTERS_IN_A_FRAME.match(character) is not None)
    )


def any_of(words: Iterable[str]) -> str:
    """A regular expression for *words*, the longest first. Words share their beginnings in it:
    trying a thousand ``<SPECIAL_…>`` at every ``<`` would take seconds for a text full of them."""
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}
    return _expression(tree) if tree else "(?!)"


def _expression(node: dict[str, Any]) -> str:
    chain = ""
    while len(node) == 1:  # no fork: not a group for every character
        ((character, node),) = node.items()
        if not character:
            return chain
        chain += re.escape(character)
    forks = "|".join(re.escape(c) + _expression(after) for c, after in node.items() if c)
    return f"{chain}(?:{forks}){'?' if '' in node else ''}"
