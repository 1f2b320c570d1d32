"""What a tokenizer makes of a text: ids, pieces and their places. For people, not for serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trt_tokenizers.errors import TokenizerError, one_line
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings

#: How far to look for a piece where a normalizer has changed the text, in bytes.
_LOOK_AHEAD = 64
_NONE = (-1, 0, 0)


@dataclass(frozen=True)
class Piece:
    """One token of a prompt.

    Attributes:
        id: the token's.
        text: its own text; bytes that are no whole character as ``\\xNN``.
        start, end: characters of the prompt that it stands for; None where it stands for none
            (an added BOS) or where the tokenizer changed the text first.
        special: a special token.
    """

    id: int
    text: str
    start: int | None
    end: int | None
    special: bool


def pieces(tokenizer: Tokenizer, prompt: str, ids: Sequence[int]) -> list[Piece]:
    """The tokens of *prompt*, in order."""
    told = tokenizer.offsets(prompt)
    if told is None:
        spans = _searched(tokenizer, prompt, ids)
    else:
        spans = _matched(ids, told, tokenizer.bos_id if tokenizer.adds_bos else None)
    found = []
    for token_id, (start, end) in zip(ids, spans, strict=True):
        text = tokenizer.token_bytes(token_id).decode("utf-8", "backslashreplace")
        hidden = not tokenizer.decode([token_id])
        special = hidden and bool(tokenizer.decode([token_id], skip_special_tokens=False))
        place = (start, end) if start < end else (None, None)
        found.append(Piece(token_id, text, place[0], place[1], special))
    return found


def _matched(
    ids: Sequence[int], told: list[tuple[int, int, int]], bos_id: int | None
) -> list[tuple[int, int]]:
    """Spans of *ids*: those of *told*, but of one BOS only, if *bos_id* is to stand in front, and
    with BOS and EOS added."""
    while len(told) > 1 and told[0][0] == told[1][0] == bos_id:
        del told[0]
    rest = iter(told)
    spans, (expected, start, end) = [], next(rest, _NONE)
    for token_id in ids:
        if token_id != expected:
            spans.append((0, 0))
            continue
        spans.append((start, end))
        expected, start, end = next(rest, _NONE)
    return spans


def _searched(tokenizer: Tokenizer, prompt: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Where the bytes of the tokens stand in *prompt*, one after the other."""
    whole = prompt.encode()
    # Character of each byte; a piece may end inside one.
    characters = [at for at, c in enumerate(prompt) for _ in c.encode()]
    spans, place = [], 0
    for token_id in ids:
        start, end = _placed(whole, tokenizer.token_bytes(token_id), place)
        spans.append((characters[start], characters[end - 1] + 1) if start < end else (0, 0))
        place = end
    return spans


def _placed(whole: bytes, own: bytes, place: int) -> tuple[int, int]:
    """Where *own* stands in *whole* from *place* on; an empty span if it does not."""
    for form in (own, own.removeprefix(b" ")):  # a dummy space stands for nothing
        if form and whole.startswith(form, place):
            return place, place + len(form)
    at = whole.find(own, place, place + _LOOK_AHEAD + len(own)) if own.strip() else -1
    return (at, at + len(own)) if at >= 0 else (place, place)


def kept(found: Sequence[Piece], ids: Sequence[int]) -> list[Piece]:
    """Those of a whole prompt that a cut left as *ids*: the first ones, or a few and the last."""
    if [piece.id for piece in found[: len(ids)]] == list(ids):
        return list(found[: len(ids)])
    last = 0
    while last < len(ids) and ids[-1 - last] == found[-1 - last].id:
        last += 1
    return [*found[: len(ids) - last], *found[len(found) - last :]]


def transformers_tokens(
    settings: TokenizerSettings, prompt: str, *, add_special_tokens: bool
) -> list[tuple[int, str]]:
    """What transformers makes of *prompt*: ids, each with its own text.

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
            # Its messages are of many lines, with advice for whom has the hub.
            f"transformers cannot load {settings.tokenizer_dir}: {one_line(error).rstrip(' :')}; "
            "compare in a folder that AutoTokenizer loads, or leave --compare out"
        ) from error
    ids = oracle.encode(prompt, add_special_tokens=add_special_tokens)
    return [(token_id, oracle.decode([token_id])) for token_id in ids]


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """Index of the first id that differs, or None."""
    for at, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return at
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))
