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

from canitoolcall.adapters.base import ReplayInput
from canitoolcall.checks import case_status, run_checks
from canitoolcall.fixtures import Family, Fixture, load_families, load_fixtures
from canitoolcall.results import Observation, ParsedToolCall, ParseResult, Status

from trt_tokenizers.openai.parsing import (
    Content,
    Event,
    Piece,
    Reasoning,
    ToolArguments,
    ToolCall,
    ToolCallEnd,
    make_parser,
)

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


def pieces_of(text: str, tokens: Iterable[str]) -> list[Piece]:
    """*text* with each of *tokens* in it as a special piece."""
    split = re.split(
        "(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")", text
    )
    return [Piece(part, special=n % 2 == 1) for n, part in enumerate(split) if part]


def groups_of(pieces: list[Piece], sizes: Iterator[int]) -> Iterator[list[Piece]]:
    """*pieces*, cut into groups of so many characters or special pieces each."""
    units = [unit for p in pieces for unit in ([p] if p.special else map(Piece, p.text))]
    at = 0
    while at < len(units):
        size = next(sizes)
        group, at = units[at : at + size], at + size
        merged: list[Piece] = []
        for unit in group:
            if merged and not unit.special and not merged[-1].special:
                merged[-1] = Piece(merged[-1].text + unit.text)
            else:
                merged.append(unit)
        yield merged


def fold(events: Iterable[Event], *, unfinished: bool) -> ParseResult:
    """What a client has at the end; *unfinished*: also of calls that were not ended."""
    content, reasoning, calls, ended = "", "", {}, set()
    for event in events:
        if isinstance(event, Content):
            content += event.text
        elif isinstance(event, Reasoning):
            reasoning += event.text
        elif isinstance(event, ToolCall):
            assert event.index == len(calls)
            calls[event.index] = [event.name, ""]
        elif isinstance(event, ToolArguments):
            calls[event.index][1] += event.text
        elif isinstance(event, ToolCallEnd):
            assert event.index not in ended
            ended.add(event.index)
    whole = [ParsedToolCall(*c) for index, c in calls.items() if unfinished or index in ended]
    return ParseResult(content or None, reasoning or None, tuple(whole))


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
        whole = pieces_of(raw.text, tokens)

    def events(groups: Iterable[list[Piece]]) -> list[Event]:
        parser = make_parser(
            tool, reasoning, tools=fixture.tools, prompt_end=raw.generation_prompt or ""
        )
        found = [event for group in groups for event in parser.feed(group)]
        return found + parser.finish(cut=raw.truncated)

    def sizes(seed: int, largest: int) -> Iterator[int]:
        source = random.Random(seed)
        while True:
            yield source.randint(1, largest)

    streams = {"one": fold(events([whole]), unfinished=unfinished)}
    streams["token"] = fold(events(groups_of(whole, sizes(0, 1))), unfinished=unfinished)
    for seed in range(1, 6):
        groups = groups_of(whole, sizes(seed, 8 * seed))
        streams[f"rand:{seed}:8"] = fold(events(groups), unfinished=unfinished)
    rows = run_checks(
        fixture, family, Observation(fold(events([whole]), unfinished=False), streams)
    )
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
