"""Measures the cost of preprocessing: ours and the usual one, with one and two instances.

The usual one (`benchmarks/usual/preprocessing.py`) calls AutoTokenizer.encode once per text. All
are models of one server. One client calls them directly over HTTP, in turns; results are medians of
the turns. The script also measures how long short prompts wait behind long ones, and the time and
memory of a process that loads a tokenizer, ours and transformers'.

    python benchmarks/tokenizing.py [--turns 3] [--seconds 2]
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import selectors
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from streaming import ROOT, Server, build, served

from trt_tokenizers.streams.stream_folder import open_streams, stream_folder

WORDS = (50, 1000, 8000)
AT_ONCE = (1, 16)
#: Contestant -> the model that it copies, and its number of instances. `generate` makes the first.
CONTESTANTS = {
    "ours_two": ("preprocessing", 2),
    "ours_one": ("preprocessing", 1),
    "usual_one": ("usual_preprocessing", 1),
    "usual_two": ("usual_preprocessing", 2),
}
COMPARED = (("ours_two", "usual_one"), ("ours_one", "usual_one"), ("ours_two", "usual_two"))
#: Long prompts in front of short ones: words of each, and how many are always in flight.
LONG = ((8_000, 1), (8_000, 4), (100_000, 1))
LOAD = {
    "ours": "from trt_tokenizers.tokenizers.base import TokenizerSettings\n"
    "from trt_tokenizers.tokenizers.registry import create\n"
    "create(TokenizerSettings({folder!r})).encode('a')\n",
    "transformers": "from transformers import AutoTokenizer\n"
    "AutoTokenizer.from_pretrained({folder!r}).encode('a')\n",
}
VOCABULARY = (ROOT / "LICENSE").read_text().split()


def text_of(words: int, seed: int) -> str:
    """A text of random words."""
    return " ".join(random.Random(seed).choices(VOCABULARY, k=words))


def infer_request(model: str, text: str) -> bytes:
    """The bytes of an HTTP request for all outputs of *model*, as an ensemble requests them."""
    data = text.encode()
    tensors = struct.pack("<I", len(data)) + data + struct.pack("<i", 8)
    head = json.dumps({
        "inputs": [
            {"name": "QUERY", "datatype": "BYTES", "shape": [1, 1],
             "parameters": {"binary_data_size": len(tensors) - 4}},
            {"name": "REQUEST_OUTPUT_LEN", "datatype": "INT32", "shape": [1, 1],
             "parameters": {"binary_data_size": 4}},
        ],
        "parameters": {"binary_data_output": True},
    }).encode()  # fmt: skip
    return (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\n"
        f"Inference-Header-Content-Length: {len(head)}\r\n"
        f"Content-Length: {len(head) + len(tensors)}\r\n\r\n"
    ).encode() + head + tensors  # fmt: skip


class Connection:
    """A plain keep-alive socket: an HTTP library would take more CPU time than the server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = bytearray()

    def send(self, request: bytes) -> None:
        self._answer.clear()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Read available bytes; return whether the answer is complete."""
        self._answer += self.socket.recv(1 << 18)
        end = self._answer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._answer[:end])
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(self._answer.decode(errors="replace")[:500])
        (length,) = re.findall(rb"\r\nContent-Length: (\d+)", head)
        return len(self._answer) == end + 4 + int(length)

    def close(self) -> None:
        self.socket.close()

    def ask(self, request: bytes) -> None:
        self.send(request)
        while not self.receive():
            pass


def turn(port: int, model: str, words: int, at_once: int, seconds: float) -> float:
    """Requests per second with *at_once* in flight, measured over *seconds*."""
    requests = itertools.cycle([infer_request(model, text_of(words, seed)) for seed in range(8)])
    connections = [Connection(port) for _ in range(at_once)]
    connections[0].ask(next(requests))
    done, last = 0, 0.0
    with selectors.DefaultSelector() as selector:
        started = time.perf_counter()
        for connection in connections:
            connection.send(next(requests))
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        while selector.get_map():
            for key, _ in selector.select():
                if key.data.receive():
                    done, last = done + 1, time.perf_counter()
                    if last < started + seconds:
                        key.data.send(next(requests))
                    else:
                        selector.unregister(key.fileobj)
                        key.data.close()
    return done / (last - started)


def remove_contexts(server: Server) -> None:
    """Remove the contexts: no postprocessing takes them here, and listing thousands costs."""
    for pid in server.processes:
        for stream in open_streams(stream_folder(pid)):
            stream.path.unlink(missing_ok=True)


def waits(port: int, model: str, words: int, at_once: int, seconds: float) -> list[float]:
    """Seconds of each of several consecutive prompts of 50 words, while *at_once* prompts of
    *words* words are always being encoded."""
    long, over = infer_request(model, text_of(words, 0)), threading.Event()
    took: list[float] = []

    def load() -> None:
        with contextlib.closing(Connection(port)) as own:
            while not over.is_set():
                own.ask(long)

    with ThreadPoolExecutor(at_once) as pool:
        loads = [pool.submit(load) for _ in range(at_once)]
        with contextlib.closing(Connection(port)) as own:
            ends = time.perf_counter() + seconds
            while (started := time.perf_counter()) < ends:
                own.ask(infer_request(model, text_of(50, len(took))))
                took.append(time.perf_counter() - started)
        over.set()
        for each in loads:
            each.result()
    return took


def loading(kind: str, folder: str) -> tuple[float, float]:
    """Seconds and megabytes of a process that only loads a tokenizer."""
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
@click.option("--seconds", default=2.0, show_default=True, help="Duration of each turn.")
@click.option(
    "--port",
    default=18610,
    show_default=True,
    help="HTTP port; the two ports above it are used too.",
)
@click.option("--tokenizer", type=click.Path(path_type=Path), help="[default: SmolLM2's]")
def main(turns: int, seconds: float, port: int, tokenizer: Path | None) -> None:
    """Compare our preprocessing with the usual one."""
    if tokenizer is None:
        script = [sys.executable, str(ROOT / "scripts" / "smollm2.py")]
        done = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True)
        tokenizer = Path(done.stdout.strip())
    rates: dict[tuple[int, int, str], float] = {}
    with tempfile.TemporaryDirectory(prefix="tokenize-") as folder:
        repository = Path(folder) / "repo"
        build(repository, tokenizer, "1")
        for name, (of, count) in CONTESTANTS.items():
            shutil.copytree(repository / of, repository / name)
            config = repository / name / "config.pbtxt"
            text = re.sub(r"instance_group \[.*?\n\]\n", "", config.read_text(), flags=re.DOTALL)
            text = text.replace(f'name: "{of}"', f'name: "{name}"')
            config.write_text(f"{text}\ninstance_group {{ count: {count} kind: KIND_CPU }}\n")
        with served(repository, port) as server:
            for words in WORDS:
                for at_once in AT_ONCE:
                    runs: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
                    for number in range(turns + 1):
                        for name, its in runs.items():
                            rate = turn(server.port, name, words, at_once, seconds)
                            remove_contexts(server)
                            if number:
                                its.append(rate)
                    for name, its in runs.items():
                        rates[words, at_once, name] = statistics.median(its)
                    shown = "".join(f"  {n} {statistics.median(i):8.1f}" for n, i in runs.items())
                    click.echo(f"{words:>5} words, {at_once:>2} at once, requests/s:{shown}")
            for words, at_once in LONG:
                shown = ""
                for name in CONTESTANTS:
                    took = sorted(waits(server.port, name, words, at_once, 2 * seconds))
                    p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
                    shown += f"  {name} {p50 * 1e3:.1f} and {p99 * 1e3:.1f}"
                click.echo(f"50 words behind {at_once} of {words}, p50 and p99, ms:{shown}")
    click.echo("\nRatios of requests/s (goal: >= 1.5 x at 16 at once, >= 1.0 x at 1)")
    for words, at_once in itertools.product(WORDS, AT_ONCE):
        rate_of = {name: rates[words, at_once, name] for name in CONTESTANTS}
        ratios = [f"{us} / {them} {rate_of[us] / rate_of[them]:5.2f} x" for us, them in COMPARED]
        click.echo(f"  {words:>5} words, {at_once:>2} at once:   " + "   ".join(ratios))
    loads = {kind: [loading(kind, str(tokenizer)) for _ in range(turns)] for kind in LOAD}
    for at, (what, unit) in enumerate((("import and load", "s"), ("memory", "MB"))):
        ours, theirs = (statistics.median(run[at] for run in loads[kind]) for kind in LOAD)
        click.echo(
            f"{what}: ours {ours:.2f} {unit}, transformers {theirs:.2f} {unit}, "
            f"{ours / theirs:.2f} x   (goal <= 0.4)"
        )


if __name__ == "__main__":
    main()
