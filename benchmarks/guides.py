"""Guides of the engine transformers (or vllm): whether answers follow them, and what they cost.

First, one answer of SmolLM2 to each of the 60 schemas, 20 regexes and 10 grammars of
tests/support/guided.py, at temperature 1, with its guide and without. Then tokens per second of 32
streams with guides and without, in turns, all of the same number of tokens; and the CPU time of the
engine's processes, which a busy machine changes less. With one thread no thread waits actively.

    python scripts/smollm2.py; python benchmarks/guides.py
    OMP_NUM_THREADS=1 python benchmarks/guides.py --turns 6 --skip-answers
"""

from __future__ import annotations

import json
import os
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
from harness import VLLM_ON_A_CPU, Server, descendants, generate, launched  # noqa: E402
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


def cpu_seconds(server: Server) -> float:
    """CPU time so far of the processes of the engine."""
    (stub,) = (
        pid
        for pid in descendants(server.process.pid)
        if b"/tensorrt_llm/1/model.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    total = 0
    for pid in (stub, *descendants(stub)):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def speed(server: Server, guided: bool) -> tuple[float, float]:
    """Tokens per second of 32 streams, and CPU milliseconds of a token."""
    asked = {
        "text_input": "A list in JSON:", "temperature": 1.0, "max_tokens": TOKENS, "end_id": -1,
        "min_tokens": TOKENS, "stream": True,
    }  # fmt: skip
    if guided:
        asked |= {"guided_decoding_guide_type": "json_schema",
                  "guided_decoding_guide": json.dumps(SCHEMA)}  # fmt: skip
    bodies = [{**asked, "seed": seed} for seed in range(STREAMS)]
    used, started = cpu_seconds(server), time.perf_counter()
    chunks = server.streams(bodies)
    seconds, used = time.perf_counter() - started, cpu_seconds(server) - used
    counts = {int(each[-1]["num_output_tokens"].item()) for each in chunks}
    assert counts == {TOKENS}, counts
    return STREAMS * TOKENS / seconds, 1000 * used / (STREAMS * TOKENS)


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
            speed(server, True)  # warm
            pairs = [(speed(server, False), speed(server, True)) for _ in range(turns)]
            for at, unit in enumerate(("tokens/s", "ms of CPU time a token")):
                free, guided = (
                    statistics.median(pair[how][at] for pair in pairs) for how in (0, 1)
                )
                spread = ", ".join(f"{b[at] / a[at]:.3f}" for a, b in pairs)
                click.echo(f"{STREAMS} streams: {free:.2f} {unit} without guides, {guided:.2f} "
                           f"with ({guided / free:.3f}; turns: {spread})")  # fmt: skip


if __name__ == "__main__":
    main()
