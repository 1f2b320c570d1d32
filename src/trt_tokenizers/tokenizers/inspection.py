"""Tokens of a text and their positions, for people who look at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trt_tokenizers.errors import TokenizerError, one_line
from trt_tokenizers.tokenizers.base import GUARD, Tokenizer, TokenizerSettings

#: Bytes to search for a token after the previous one, if a normalizer has changed the text.
_LOOK_AHEAD = 64
_NONE = (-1, 0, 0)


@dataclass(frozen=True)
class Piece:
    """One token of a prompt.

    Attributes:
        id: of the token.
        text: of the token; bytes that are not a whole character are ``\\xNN``.
        start, end: its characters in the prompt; None if it has none there (an added BOS), or if
            the tokenizer changed the text first.
        special: whether it is a special token.
    """

    id: int
    text: str
    start: int | None
    end: int | None
    special: bool


def pieces(tokenizer: Tokenizer, prompt: str, ids: Sequence[int]) -> list[Piece]:
    """The tokens of *prompt*, whose ids are *ids*, in order. Positions do not count `GUARD`."""
    offsets = None if GUARD in prompt else tokenizer.offsets(prompt)
    if offsets is None:
        spans = _search(tokenizer, prompt.replace(GUARD, ""), ids)
    else:
        spans = _match(ids, offsets, tokenizer.bos_id if tokenizer.adds_bos else None)
    found = []
    for token_id, (start, end) in zip(ids, spans, strict=True):
        text = tokenizer.token_bytes(token_id).decode("utf-8", "backslashreplace")
        span = (start, end) if start < end else (None, None)
        found.append(Piece(token_id, text, span[0], span[1], is_special(tokenizer, token_id)))
    return found


def is_special(tokenizer: Tokenizer, token_id: int) -> bool:
    """Whether ``skip_special_tokens`` omits the token."""
    hidden = not tokenizer.decode([token_id])
    return hidden and bool(tokenizer.decode([token_id], skip_special_tokens=False))


def _match(
    ids: Sequence[int], offsets: list[tuple[int, int, int]], bos_id: int | None
) -> list[tuple[int, int]]:
    """Spans of *ids*; tokens that the library did not find in the text get an empty span."""
    # Several BOS in front count as one, as in `Tokenizer.encode_prompts`.
    while len(offsets) > 1 and offsets[0][0] == offsets[1][0] == bos_id:
        del offsets[0]
    remaining = iter(offsets)
    spans, (expected, start, end) = [], next(remaining, _NONE)
    for token_id in ids:
        spans.append((start, end) if token_id == expected else (0, 0))
        if token_id == expected:
            expected, start, end = next(remaining, _NONE)
    return spans


def _search(tokenizer: Tokenizer, prompt: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Spans of *ids*, found by searching *prompt* for the bytes of each token in order."""
    whole = prompt.encode()
    # Index of the character of each byte; a token may end inside a character.
    characters = [at for at, c in enumerate(prompt) for _ in c.encode()]
    spans, position = [], 0
    for token_id in ids:
        start, end = _find(whole, tokenizer.token_bytes(token_id), position)
        spans.append((characters[start], characters[end - 1] + 1) if start < end else (0, 0))
        position = end
    return spans


def _find(whole: bytes, token: bytes, position: int) -> tuple[int, int]:
    """Span of *token* in *whole* at *position* or soon after it; empty if it is not there."""
    for form in (token, token.removeprefix(b" ")):  # the text does not contain a dummy space
        if form and whole.startswith(form, position):
            return position, position + len(form)
    at = whole.find(token, position, position + _LOOK_AHEAD + len(token)) if token.strip() else -1
    return (at, at + len(token)) if at >= 0 else (position, position)


def kept(found: Sequence[Piece], ids: Sequence[int]) -> list[Piece]:
    """The tokens of *found* that remain if the ids are truncated to *ids*."""
    if [piece.id for piece in found[: len(ids)]] == list(ids):
        return list(found[: len(ids)])
    last = 0
    while last < len(ids) and ids[-1 - last] == found[-1 - last].id:
        last += 1
    return [*found[: len(ids) - last], *found[len(found) - last :]]


def transformers_tokens(
    settings: TokenizerSettings, prompt: str, *, add_special_tokens: bool
) -> list[tuple[int, str]]:
    """(id, text) of each token that transformers gives for *prompt*.

    Raises:
        TokenizerError: transformers is missing or cannot load the folder.
    """
    from trt_tokenizers.tokenizers.transformers import auto_tokenizer

    try:
        oracle = auto_tokenizer(settings)
    except TokenizerError:
        raise
    except Exception as error:
        raise TokenizerError(
            # transformers' messages have many lines, with advice about the hub.
            f"transformers cannot load {settings.tokenizer_dir}: {one_line(error).rstrip(' :')}; "
            "use a folder that AutoTokenizer loads, or leave --compare out"
        ) from error
    ids = oracle.encode(prompt, add_special_tokens=add_special_tokens)
    return [(token_id, oracle.decode([token_id])) for token_id in ids]


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """Index of the first id that differs, or None."""
    for at, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return at
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))
