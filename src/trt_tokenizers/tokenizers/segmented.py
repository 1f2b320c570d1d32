"""What tokenizers share whose library knows plain text only: special tokens are found here."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

from trt_tokenizers.detokenize import ByteStreamDecoder, StreamDecoder
from trt_tokenizers.tokenizers.base import Tokenizer
from trt_tokenizers.tokenizers.vocabulary import TokenBytes


class SegmentedTokenizer(Tokenizer):
    """Special tokens written out in a text become their ids; the segments between them are
    encoded by the subclass. Every id stands for bytes, so streams are exact."""

    def _set_vocabulary(
        self,
        special: Mapping[str, int],
        token_bytes: Callable[[int], bytes | None],
        *,
        hidden: frozenset[int] = frozenset(),
        strip_first_space: bool = False,
    ) -> None:
        """
        Args:
            special: special tokens and their ids.
            token_bytes: bytes of an id, special ones included; None outside the vocabulary.
            hidden: further ids that are skipped with the special tokens.
            strip_first_space: a text's first space is the tokenizer's own.
        """
        self._special = dict(special)
        longest_first = sorted(special, key=len, reverse=True)
        self._find_special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._strip_first_space = strip_first_space
        self._tables = {
            False: TokenBytes(token_bytes),
            True: TokenBytes(token_bytes, hidden | set(special.values())),
        }

    @abstractmethod
    def _encode_segment(self, text: str, *, first: bool) -> list[int]:
        """Ids of *text*, which is not empty and holds no special tokens.

        Args:
            text: a piece of the prompt.
            first: the prompt begins with it.
        """

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = []
        at = 0
        for match in self._find_special.finditer(text):
            if at < match.start():
                ids += self._encode_segment(text[at : match.start()], first=at == 0)
            ids.append(self._special[match.group()])
            at = match.end()
        if at < len(text):
            ids += self._encode_segment(text[at:], first=at == 0)
        if add_special_tokens and self.adds_bos and self.bos_id is not None:
            ids.insert(0, self.bos_id)
        if add_special_tokens and self.adds_eos:
            ids.append(self.eos_ids[0])
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        stream = self.stream(skip_special_tokens=skip_special_tokens)
        return stream.feed(ids) + stream.finish()

    def stream(self, *, skip_special_tokens: bool = True, first: bool = True) -> StreamDecoder:
        return ByteStreamDecoder(
            self._tables[skip_special_tokens], strip_first_space=first and self._strip_first_space
        )

    def token_bytes(self, token_id: int) -> bytes:
        return self._tables[False][token_id]
