"""Special tokens inside stop words, if special tokens are left out of the text."""

from __future__ import annotations

from collections import deque

from trt_tokenizers.streams.context_store import RequestContext
from trt_tokenizers.tokenizers.base import Tokenizer


class HiddenTokens:
    """Adds special tokens to the text that is searched for stop words, and omits them afterwards.

    The stop word ``<|im_start|>user`` is a special token and text. Its ids alone do not show where
    the answer ends: the token after the special one may have more letters than ``user``.
    """

    __slots__ = ("_added", "_omitted", "_spans", "_texts")

    def __init__(self, texts: dict[int, str]) -> None:
        """*texts*: id -> text of each special token that is hidden and occurs in a stop word."""
        self._texts = texts
        self._spans: deque[tuple[int, int]] = deque()  # of hidden text, until it was omitted
        self._added = self._omitted = 0  # characters so far

    @classmethod
    def in_stop_words(cls, tokenizer: Tokenizer, context: RequestContext) -> HiddenTokens:
        """Those of *context*; none if the text keeps special tokens, or no word has other text."""
        texts: dict[int, str] = {}
        if context.skip_special_tokens and any(map(tokenizer.has_control, context.stop_strings)):
            for token_id in {i for word in context.stop_ids if len(word) > 1 for i in word}:
                text = tokenizer.decode([token_id], skip_special_tokens=False)
                if text and not tokenizer.decode([token_id]):
                    texts[token_id] = text
        return cls(texts)

    def add(self, text: str, token_id: int | None = None) -> str:
        """*text*, which *token_id* completes, and the hidden text of *token_id* if it has one."""
        if not self._texts:
            return text
        self._added += len(text)
        if hidden := self._texts.get(token_id, "") if token_id is not None else "":
            self._spans.append((self._added, self._added + len(hidden)))
            self._added += len(hidden)
        return text + hidden

    def omit(self, text: str) -> str:
        """*text*, a further part of what `add` returned, without hidden text."""
        if not self._texts:
            return text
        start, self._omitted = self._omitted, self._omitted + len(text)
        kept, at = "", start
        while self._spans and self._spans[0][0] < self._omitted:
            begin, end = self._spans[0]
            kept += text[at - start : max(begin, at) - start]
            at = max(at, end)
            if end > self._omitted:
                break
            self._spans.popleft()
        return kept + text[at - start :]
