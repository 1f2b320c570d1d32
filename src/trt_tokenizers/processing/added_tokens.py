"""Where the added tokens of an answer are in its text."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from trt_tokenizers.tokenizers.detokenize import StreamDecoder


class AddedTokens(StreamDecoder):
    """Decodes like another decoder, and notes the places of added tokens.

    A program that reads ``<tool_call>`` in a text cannot know whether it is the model's marker or a
    part of a sentence; with the places it can.
    """

    def __init__(self, decoder: StreamDecoder, tokens: Mapping[int, tuple[str, bool]]) -> None:
        """*tokens*: `Tokenizer.added_tokens`."""
        self._decoder = decoder
        self._tokens = tokens
        self._spans: deque[tuple[int, int, bool]] = deque()
        self._decoded = self._given = 0  # characters so far

    def feed(self, ids: Sequence[int]) -> str:
        if self._tokens.keys().isdisjoint(ids):
            return self._count(self._decoder.feed(ids))
        text = ""
        for token_id in ids:
            text += self._count(self._decoder.feed((token_id,)))
            token, special = self._tokens.get(token_id, ("", False))
            if token and text.endswith(token):
                self._spans.append((self._decoded - len(token), self._decoded, special))
        return text

    def finish(self) -> str:
        return self._count(self._decoder.finish())

    def _count(self, text: str) -> str:
        self._decoded += len(text)
        return text

    def take(self, text: str, before: int) -> list[int]:
        """The places in *text*, the next part of the decoded text, that the client gets.

        A token of which another part was given before, or comes later, is ordinary text.

        Args:
            text: the part.
            before: characters that the client gets before it in the same response.

        Returns:
            Start, end and whether it is special (1 or 0) of each token, flat.
        """
        start, self._given = self._given, self._given + len(text)
        found: list[int] = []
        while self._spans and self._spans[0][0] < self._given:
            begin, end, special = self._spans.popleft()
            if start <= begin and end <= self._given:
                found += (begin - start + before, end - start + before, special)
        return found
