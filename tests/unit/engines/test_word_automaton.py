"""Words among token ids: compared with a search of every word, and the work per token counted."""

from __future__ import annotations

import random

import pytest

from applicable import needs_engine
from trt_tokenizers.engines.base import StopWords
from trt_tokenizers.engines.word_automaton import WordAutomaton

RNG = random.Random(7)


def words(count: int, longest: int = 5, ids: int = 3) -> list[tuple[int, ...]]:
    return [tuple(RNG.choices(range(ids), k=RNG.randint(1, longest))) for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 30])
def test_matches_and_completions_equal_a_search_of_every_word(count: int) -> None:
    for _ in range(50):
        known = words(count)
        automaton, state, seen = WordAutomaton(known), 0, ()
        for token in RNG.choices(range(3), k=40):
            expected = {w[-1] for w in known if len(w) > 1 and seen[-len(w) + 1 :] == w[:-1]}
            assert set(automaton.completions(state)) == expected
            state = automaton.step(state, token)
            seen += (token,)
            assert automaton.matches(state) == any(seen[-len(w) :] == w for w in known)


def test_a_stop_word_that_begins_before_min_tokens_ends_the_sequence_after_them() -> None:
    stops = StopWords([(1, 2)], min_tokens=4)
    assert [stops.add(token) for token in (1, 2, 1, 2, 3, 2)] == [
        False, False, False, True, False, False,
    ]  # fmt: skip


class Counted(int):
    """A token that counts how often it is looked up."""

    lookups = 0

    def __hash__(self) -> int:
        Counted.lookups += 1
        return int.__hash__(self)


def work(known: list[tuple[int, ...]], tokens: list[int]) -> int:
    stops = StopWords(known, 1)
    Counted.lookups = 0
    for token in tokens:
        stops.add(Counted(token))
    return Counted.lookups


def test_ten_thousand_words_cost_as_much_as_one() -> None:
    """All of the words end with the same id, as words that end with a full stop do."""
    many = [(*RNG.choices(range(100, 50_000), k=3), 7) for _ in range(10_000)]
    tokens = [token for word in RNG.sample(many, 100) for token in word[:-1]]
    assert work(many[:1], tokens) <= work(many, tokens) <= 5 * len(tokens)
    unlike = [7] * 1000
    assert work(many, unlike) == work(many[:1], unlike)


def test_bad_words_equal_those_of_transformers() -> None:
    needs_engine()
    import torch
    from transformers.generation.logits_process import NoBadWordsLogitsProcessor

    from trt_tokenizers.engines.transformers.sampling import BadWords

    for count in (1, 3, 10):
        banned = words(count, longest=4, ids=6)
        theirs = NoBadWordsLogitsProcessor([list(word) for word in set(banned)])
        ours = BadWords(tuple(banned))
        ids = torch.tensor([RNG.choices(range(6), k=60)])
        for length in range(5, 60):
            scores = torch.rand(1, 6)
            expected = theirs(ids[:, :length], scores.clone())
            assert torch.equal(ours(ids[:, :length], scores), expected)
