"""canitoolcall's fixtures through the parsers. Run as a script: passed of total for each family.

Its tokenizers are on the Hugging Face Hub, so answers are cut between characters instead of tokens,
once as text alone and once with each marker as a special piece.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import repeat

from canitoolcall.adapters.base import ReplayInput
from canitoolcall.checks import case_status, run_checks
from canitoolcall.fixtures import Family, Fixture, load_families, load_fixtures
from canitoolcall.results import Observation, ParsedToolCall, ParseResult, Status

from answers import Folded, cut, parse, with_special
from trt_tokenizers.openai.parsing import Piece, make_parser

#: Family, or the beginning of a model's name -> tool parser, reasoning parser.
PARSERS = {
    "deepseek": ("deepseek_v32", "think"),
    "DeepSeek-V3-": ("deepseek_v3", "think"),
    "DeepSeek-V3.1": ("deepseek_v3", "think"),
    "gemma4": ("gemma", "gemma"),
    "glm": ("glm", "think"),
    "gpt-oss": ("gpt_oss", "gpt_oss"),
    "kimi": ("kimi", "kimi"),
    "llama": ("llama3_json", "none"),
    "Llama-4": ("pythonic", "none"),
    "mistral": ("mistral", "mistral"),
    "qwen3-hermes": ("hermes", "think"),
    "qwen3-xml": ("qwen3_coder", "think"),
}


def parsers_of(fixture: Fixture) -> tuple[str, str]:
    model = fixture.models[0].rpartition("/")[2]
    named = (names for start, names in PARSERS.items() if model.startswith(start))
    return next(named, PARSERS[fixture.family])


def _result(folded: Folded, *, unfinished: bool) -> ParseResult:
    calls = folded.calls if unfinished else [(*call, True) for call in folded.whole]
    return ParseResult(
        folded.content or None,
        folded.reasoning or None,
        tuple(ParsedToolCall(name, arguments) for name, arguments, _ in calls),
    )


def status_of(
    fixture: Fixture, family: Family, *, special: bool, unfinished: bool
) -> tuple[Status, list[str]]:
    """Status of a fixture by canitoolcall's own checks, and why it is not passed.

    Args:
        fixture, family: of canitoolcall.
        special: markers come as special pieces.
        unfinished: a streamed call that was not ended counts as returned.
    """
    raw = ReplayInput.from_fixture(fixture, family)
    tool, reasoning = parsers_of(fixture)
    whole = [Piece(raw.text)]
    if special:
        tokens = [m for m in family.markers if not re.fullmatch(r"</?(function|parameter)=?>?", m)]
        whole = with_special(raw.text, tokens)

    def parsed(sizes: Iterable[int]) -> Folded:
        parser = make_parser(
            tool, reasoning, tools=fixture.tools, prompt_end=raw.generation_prompt or ""
        )
        return parse(parser, cut(whole, sizes), cut=raw.truncated)

    def random_sizes(seed: int) -> Iterator[int]:
        source = random.Random(seed)
        while True:
            yield source.randint(1, 8 * seed)

    cuts = {f"rand:{seed}:8": random_sizes(seed) for seed in range(1, 6)}
    streams = {
        name: _result(parsed(sizes), unfinished=unfinished)
        for name, sizes in {"one": [len(raw.text)], "token": repeat(1), **cuts}.items()
    }
    whole_answer = _result(parsed([len(raw.text)]), unfinished=False)
    rows = run_checks(fixture, family, Observation(whole_answer, streams))
    bad = [f"{r.check} {r.strategy}: {r.detail}" for r in rows if r.status is not Status.PASS]
    return case_status(rows), bad


def run(*, special: bool, unfinished: bool) -> Iterator[tuple[Fixture, Status, list[str]]]:
    families = load_families()
    for fixture in load_fixtures():
        yield (
            fixture,
            *status_of(fixture, families[fixture.family], special=special, unfinished=unfinished),
        )


def main() -> None:
    for special in (False, True):
        for unfinished in (False, True):
            total, passed, soft = Counter(), Counter(), Counter()
            for fixture, status, why in run(special=special, unfinished=unfinished):
                total[fixture.family] += 1
                passed[fixture.family] += status is Status.PASS
                soft[fixture.family] += status is Status.SOFT_PASS
                if status is not Status.PASS and "-v" in sys.argv:
                    sys.stdout.write(f"  {status.value} {fixture.id}: {why[0]}\n")
            sys.stdout.write(f"special pieces: {special}, unfinished calls count: {unfinished}\n")
            for name in total:
                sys.stdout.write(
                    f"  {name:13} {passed[name]:3} + {soft[name]:2} of {total[name]}\n"
                )
            sys.stdout.write(
                f"  {'all':13} {passed.total():3} + {soft.total():2} of {total.total()}\n"
            )


if __name__ == "__main__":
    main()
