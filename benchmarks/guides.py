"""Guides of the engine transformers (or vllm): whether answers follow them, and what they cost.

First, one answer of SmolLM2 to each of the 60 schemas, 20 regexes and 10 grammars of
tests/support/guided.py, at temperature 1, with its guide and without. Then tokens per second of 32
streams with guides and without, in turns, all of the same number of tokens.

    python scripts/smollm2.py; python benchmarks/guides.py
    python benchmarks/guides.py --turns 6 --skip-answers
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from guided import CASES, body  # noqa: E402
from harness import VLLM_ON_A_CPU, Server, generate, launched  # noqa: E402
from trt_tokenizers.repository.demo_model import demo_model  # noqa: E402

STREAMS = 32
#: An object that does not end before TOKENS tokens.
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "n": {"type": "integer"},
                   "rows": {"type": "array", "minItems": 500, "items": {"enum": [1, "a", None]}}},
    "required": ["name", "rows"],
    "additionalProperties": False,
}  # fmt: skip
TOKENS = 64


def answers(server: Server) -> None:
    """Print how many answers follow their guides."""
    for guided in (True, False):
        right, cut, refused, wrong = 0, 0, 0, []
        with ThreadPoolExecutor(STREAMS) as pool:
            found = list(pool.map(lambda case: server.generate(body(case, guided=guided)), CASES))  # noqa: B023
        for (name, *_, check), (status, answer) in zip(CASES, found, strict=True):
            if status != 200:
                refused += 1
                click.echo(f"refused: {name}: {answer['error']}")
            elif check(answer["text_output"]):
                right += 1
            elif answer["finish_reason"] == "length":
                cut += 1
            else:
                wrong.append((name, answer["text_output"]))
        how = "with guides" if guided else "without"
        click.echo(f"{how}: {right} valid, {len(wrong)} not, {cut} cut by max_tokens, "
                   f"{refused} refused, of {len(CASES)}")  # fmt: skip
        if guided:
            for name, text in wrong:
                click.echo(f"  not valid: {name}: {text!r}")


def speed(server: Server, guided: bool) -> float:
    """Tokens per second of 32 streams."""
    asked = {
        "text_input": "A list in JSON:", "temperature": 1.0, "max_tokens": TOKENS, "end_id": -1,
        "min_tokens": TOKENS, "stream": True,
    }  # fmt: skip
    if guided:
        asked |= {"guided_decoding_guide_type": "json_schema",
                  "guided_decoding_guide": json.dumps(SCHEMA)}  # fmt: skip
    bodies = [{**asked, "seed": seed} for seed in range(STREAMS)]
    started = time.perf_counter()
    chunks = server.streams(bodies)
    seconds = time.perf_counter() - started
    counts = {int(each[-1]["num_output_tokens"].item()) for each in chunks}
    assert counts == {TOKENS}, counts
    return STREAMS * TOKENS / seconds


@click.command(help=__doc__)
@click.option("--engine", default="transformers")
@click.option("--turns", default=4)
@click.option("--skip-answers", is_flag=True)
def main(engine: str, turns: int, skip_answers: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        more = (*VLLM_ON_A_CPU, "--engine-arg", "skip_tokenizer_init=false")
        arguments = ("--engine", engine, "--model", str(demo_model(print)))
        repository = generate(folder / "repo", *arguments, *(more if engine == "vllm" else ()))
        with launched(repository, folder) as server:
            if not skip_answers:
                answers(server)
            rates: dict[bool, list[float]] = {False: [], True: []}
            speed(server, True)  # warm
            for turn in range(2 * turns):
                rates[bool(turn % 2)].append(speed(server, bool(turn % 2)))
            free, guided = (statistics.median(rates[how]) for how in (False, True))
            spread = ", ".join(
                f"{b / a:.3f}" for a, b in zip(rates[False], rates[True], strict=True)
            )
            click.echo(f"{STREAMS} streams: {free:.1f} tokens/s without guides, {guided:.1f} with "
                       f"({guided / free:.3f}; turns: {spread})")  # fmt: skip


if __name__ == "__main__":
    main()
