"""Stop words, bad words and embedding bias: text -> token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import RequestError
from trt_tokenizers.streams.word_arrays import TokenIds
from trt_tokenizers.tokenizers.base import Tokenizer

#: What a word may follow without a space. T5 and its kin drop line ends.
_ANCHORS = ("\n", "(", "-", "x")


def tokenizations(tokenizer: Tokenizer, words: Iterable[str], name: str) -> list[TokenIds]:
    """Every way in which *words* may begin a run of tokens: as at the beginning of a text, after
    a space, and in the middle of a line. Empty words are passed over: clients send ``[""]``.

    Raises:
        RequestError: a word has no tokens of its own; *name* is the parameter to blame.
    """
    found: dict[TokenIds, None] = {}
    anchors: dict[str, list[int]] = {}
    for word in words:
        if not word:
            continue
        alone = _ids(tokenizer, word, name)
        found[tuple(alone)] = None
        found[tuple(tokenizer.encode(f" {word}", add_special_tokens=False))] = None
        if inner := _inner(tokenizer, word, alone, anchors):
            found[inner] = None
    return list(found)


def _inner(
    tokenizer: Tokenizer, word: str, alone: Sequence[int], anchors: dict[str, list[int]]
) -> TokenIds:
    """Ids of *word* where neither a text nor a space is before it: what follows the first of
    `_ANCHORS` whose own ids stay as they are; none if there is none.

    Args:
        tokenizer: whose ids.
        word: not empty.
        alone: its ids at the beginning of a text.
        anchors: ids of those that were asked for, to be kept for the next word.
    """
    for anchor in _ANCHORS:
        before = anchors.get(anchor)
        if before is None:
            before = anchors[anchor] = tokenizer.encode(anchor, add_special_tokens=False)
        if not before:  # dropped, and the word would stand at the beginning
            continue
        # What is unknown is one with what is unknown next to it.
        if tokenizer.unk_id in before and tokenizer.unk_id in alone:
            continue
        ids = tokenizer.encode(anchor + word, add_special_tokens=False)
        if ids[: len(before)] == before and len(ids) > len(before):
            return tuple(ids[len(before) :])
    return ()


def embedding_bias(
    tokenizer: Tokenizer, words: Sequence[str], weights: Sequence[float], vocab_size: int
) -> npt.NDArray[np.float32] | None:
    """What to add to each logit: float32 [vocab_size], or None where there is nothing to add.

    Every token of a word gets the word's weight, as often as it stands in it: of the word as at
    the beginning of a text only, as TensorRT-LLM's own preprocessing has it. Special tokens that
    the tokenizer would put around a text get none.

    Raises:
        RequestError: as many words as weights are wanted; a word without tokens of its own; a
            token beyond *vocab_size*, which is 0 where the server does not know it.
    """
    pairs = [(word, weight) for word, weight in zip(words, weights, strict=False) if word]
    if len(words) != len(weights):
        raise RequestError(
            f"embedding_bias_words has {len(words)} words and embedding_bias_weights has "
            f"{len(weights)} weights; send one weight for each word"
        )
    if not pairs:
        return None
    bias = np.zeros(vocab_size, dtype=np.float32)
    for word, weight in pairs:
        if not np.isfinite(weight):
            raise RequestError(f"embedding_bias_weights has {weight}; send finite numbers")
        ids = _ids(tokenizer, word, "embedding_bias_words")
        if max(ids) >= vocab_size:
            raise RequestError(
                f"embedding_bias_words: {word!r} has the token {max(ids)} and the server knows of "
                f"{vocab_size}; leave it out, or set vocab_size of the model preprocessing"
            )
        np.add.at(bias, ids, weight)
    return bias


def _ids(tokenizer: Tokenizer, word: str, name: str) -> list[int]:
    """Ids of *word*; one of unknown characters alone would stand for every other unknown one."""
    ids = tokenizer.encode(word, add_special_tokens=False)
    if not ids:
        raise RequestError(f"{name}: {word!r} has no tokens; leave it out")
    if (unk := tokenizer.unk_id) in ids and tokenizer.special_tokens.get("unk_token") != word:
        known = [i for i in ids if i != unk]
        if not tokenizer.decode(known, skip_special_tokens=False).strip():
            raise RequestError(
                f"{name}: {word!r} has only characters that the tokenizer does not know; "
                "leave it out"
            )
    return ids
