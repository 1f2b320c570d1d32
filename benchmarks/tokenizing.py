"""What preprocessing costs: ours, ours with dynamic batching, and the usual one, side by side.

The usual one is `benchmarks/usual/preprocessing.py`: one AutoTokenizer.encode per text. All are
models of one server, asked directly over gRPC by one client, and take turns; figures are medians of
the turns. Then what a process pays for loading a tokenizer, ours and transformers'.

    python benchmarks/tokenizing.py [--turns 3] [--seconds 2]
"""

from __future__ import annotations

import itertools
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import grpc
from streaming import ROOT, build, served
from tritonclient.grpc import service_pb2

WORDS = (50, 1000, 8000)
AT_ONCE = (1, 16)
CONTESTANTS = ("preprocessing", "batched_preprocessing", "usual_preprocessing")
LOAD = {
    "ours": "from trt_tokenizers.tokenizers.base import TokenizerSettings\n"
    "from trt_tokenizers.tokenizers.registry import create\n"
    "create(TokenizerSettings({folder!r})).encode('a')\n",
    "transformers": "from transformers import AutoTokenizer\n"
    "AutoTokenizer.from_pretrained({folder!r}).encode('a')\n",
}
VOCABULARY = (ROOT / "LICENSE").read_text().split()


def text_of(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=words))


def asked(model: str, text: str) -> bytes:
    """One request for all outputs, as an ensemble asks for all that it maps."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="QUERY", datatype="BYTES", shape=[1, 1])
    request.inputs.add(name="REQUEST_OUTPUT_LEN", datatype="INT32", shape=[1, 1])
    data = text.encode()
    request.raw_input_contents.extend((struct.pack("<I", len(data)) + data, struct.pack("<i", 8)))
    return bytes(request.SerializeToString())


def turn(grpc_port: int, model: str, words: int, at_once: int, seconds: float) -> float:
    """Requests a second, *at_once* in flight, over *seconds*."""
    requests = itertools.cycle([asked(model, text_of(words, seed)) for seed in range(8)])
    free = threading.Semaphore(at_once)
    done: list[float] = []

    def answered(future: grpc.Future) -> None:
        done.append(time.perf_counter())
        free.release()

    # Bytes, made once and not read: a client of more comfort would cost more than the server.
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        infer(next(requests))
        futures = []
        started = time.perf_counter()
        while time.perf_counter() < started + seconds:
            free.acquire()
            futures.append(infer.future(next(requests)))
            futures[-1].add_done_callback(answered)
        for future in futures:
            future.result()
    return len(done) / (max(done) - started)


def loading(kind: str, folder: str) -> tuple[float, float]:
    """Seconds and megabytes of a process that loads a tokenizer and does no more."""
    code = (
        "import resource, time\nstarted = time.perf_counter()\n" + LOAD[kind].format(folder=folder)
        + "print(time.perf_counter() - started,"
        " resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


@click.command(epilog="Example: python benchmarks/tokenizing.py --turns 3")
@click.option("--turns", default=3, show_default=True, help="Measured turns of each contestant.")
@click.option("--seconds", default=2.0, show_default=True, help="Of each turn.")
@click.option("--port", default=18610, show_default=True, help="HTTP; gRPC is one above.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="[default: SmolLM2's]")
def main(turns: int, seconds: float, port: int, tokenizer: Path | None) -> None:
    """Encode prompts by our preprocessing and by the usual one, side by side."""
    if tokenizer is None:
        script = [sys.executable, str(ROOT / "scripts" / "smollm2.py")]
        done = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True)
        tokenizer = Path(done.stdout.strip())
    rates: dict[tuple[int, int, str], float] = {}
    with tempfile.TemporaryDirectory(prefix="tokenize-") as folder:
        repository = Path(folder) / "repo"
        build(repository, tokenizer, "1")
        own = repository / "preprocessing"
        batched = repository / "batched_preprocessing"
        (batched / "1").mkdir(parents=True)
        (batched / "1" / "model.py").write_text((own / "1" / "model.py").read_text())
        config = (own / "config.pbtxt").read_text()
        config = config.replace('name: "preprocessing"', 'name: "batched_preprocessing"')
        (batched / "config.pbtxt").write_text(config + "dynamic_batching { }\n")
        with served(repository, port) as server:
            for words in WORDS:
                for at_once in AT_ONCE:
                    runs: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
                    for number in range(turns + 1):
                        for name, its in runs.items():
                            rate = turn(server.port + 1, name, words, at_once, seconds)
                            if number:
                                its.append(rate)
                    for name, its in runs.items():
                        rates[words, at_once, name] = statistics.median(its)
                    shown = "".join(f"  {n} {statistics.median(i):8.1f}" for n, i in runs.items())
                    click.echo(f"{words:>5} words, {at_once:>2} at once, requests/s:{shown}")
    click.echo("\nAgainst the usual way (goal at 16 at once: >= 1.5 x, never below 1.0 x)")
    for words in WORDS:
        for at_once in AT_ONCE:
            usual = rates[words, at_once, "usual_preprocessing"]
            ours, batch = (rates[words, at_once, name] / usual for name in CONTESTANTS[:2])
            click.echo(
                f"  {words:>5} words, {at_once:>2} at once {ours:6.2f} x   batched {batch:6.2f} x"
            )
    loads = {kind: [loading(kind, str(tokenizer)) for _ in range(turns)] for kind in LOAD}
    for at, (what, unit) in enumerate((("import and load", "s"), ("memory", "MB"))):
        ours, theirs = (statistics.median(run[at] for run in loads[kind]) for kind in LOAD)
        click.echo(
            f"{what}: ours {ours:.2f} {unit}, transformers {theirs:.2f} {unit}, "
            f"{ours / theirs:.2f} x   (goal <= 0.4)"
        )


if __name__ == "__main__":
    main()
