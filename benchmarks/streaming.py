"""Measures the cost of a streamed response: the engine alone, our ensemble and the usual one.

The engine returns the prompt at full speed, so the benchmark measures everything except the engine.
The usual ensemble (`benchmarks/usual`) calls AutoTokenizer.encode, batch_decode for each chunk, and
returns all outputs of NVIDIA's ensemble. All contestants share one server, one tokenizer and one
client, and run in turns; results are medians of the turns. Compare the ratios: the absolute numbers
include the noise of the machine.

    python benchmarks/streaming.py [--turns 5] [--tokens 167]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
from usual.models import configs

from trt_tokenizers.launcher.process_tree import descendants
from trt_tokenizers.repository.generate import GenerateOptions, render, write

ROOT = Path(__file__).parents[1]
STREAMS = (1, 32, 128)
TICKS = os.sysconf("SC_CLK_TCK")


def build(
    output: Path,
    tokenizer: Path,
    tokens_per_response: str,
    outputs: tuple[str, ...] = (),
    template: str = "auto",
) -> None:
    """Write one repository with our ensemble and the usual one, each with its own replay engine."""
    model = output.with_name(f"{output.name}-model")
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 1 << 20}))
    values = {"max_tokens_per_chunk": tokens_per_response}
    options = GenerateOptions(
        "replay:ReplayEngine", model, tokenizer, values=values, outputs=outputs, template=template
    )
    files = render(options)
    usual = configs(str(tokenizer), {"engine": "replay:ReplayEngine", "max_tokens_per_chunk": "1"})
    here = Path(__file__).parent / "usual"
    sources = {
        "usual_preprocessing": "preprocessing.py",
        "usual_postprocessing": "postprocessing.py",
        "usual_tensorrt_llm": "engine.py",
    }
    for name, config in usual.items():
        files[f"{name}/config.pbtxt"] = config
        source = sources.get(name)
        files[f"{name}/1/{'model.py' if source else '.gitkeep'}"] = (
            (here / source).read_text() if source else ""
        )
    replay = (ROOT / "tests" / "support" / "replay.py").read_text()
    files["tensorrt_llm/1/replay.py"] = files["usual_tensorrt_llm/1/replay.py"] = replay
    write(files, output)


class Server:
    """A launched server: its port, its processes, and seconds until each model was ready."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.port = port
        ready = re.findall(r"model (\w+) is ready \(([\d.]+) s\)", log.read_text())
        self.ready = {name: float(seconds) for name, seconds in ready}
        self.processes = descendants(process.pid)

    def cpu_seconds(self) -> float:
        """CPU time of all processes of the server."""
        total = 0
        for pid in self.processes:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def megabytes(self, model: str) -> float:
        """Private memory of the model's process."""
        for pid in self.processes:
            if f"/{model}/1/model.py" in Path(f"/proc/{pid}/cmdline").read_text():
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                return sum(int(li.split()[1]) for li in lines if li.startswith("Private_")) / 1024
        raise LookupError(model)


@contextlib.contextmanager
def served(repository: Path, port: int = 18600) -> Iterator[Server]:
    """Run launch_server for *repository* on *port* and the two ports above it."""
    ready, log = repository.with_suffix(".ready"), repository.with_suffix(".log")
    launcher = str(Path(sys.executable).with_name("launch_server"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [launcher, "--model-repo", str(repository), "--ready-file", str(ready),
             "--http-port", str(port), "--grpc-port", str(port + 1),
             "--metrics-port", str(port + 2)],
            stdout=output, stderr=output,
        )  # fmt: skip
        try:
            while not ready.exists():
                if process.poll() is not None:
                    sys.exit(log.read_text()[-2000:])
                time.sleep(0.1)
            yield Server(process, port, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


async def ask(port: int, path: str, body: bytes) -> tuple[int, float, bytes]:
    """Send one request; return responses, seconds to the first, and all bytes.

    It uses a plain socket, to keep the CPU time of the client low.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    started = time.perf_counter()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    first, parts = 0.0, []
    while part := await reader.read(1 << 16):
        if (not first and b"text_output" in part) or b"output_ids" in part:
            first = first or time.perf_counter() - started
        parts.append(part)
    writer.close()
    whole = b"".join(parts)
    if not whole.startswith(b"HTTP/1.1 200"):
        sys.exit(whole.decode()[:500])
    return whole.count(b"data: "), first, whole


def turn(
    server: Server,
    what: str,
    streams: int,
    tokens: int,
    *,
    stream: bool = True,
    rounds: int = 1,
    answer: int | None = None,
) -> dict:
    """Measure *streams* concurrent clients, each with *rounds* requests one after another.

    A prompt has *tokens* tokens. An answer has *answer* tokens, by default as many as the prompt.
    """
    answer = answer or tokens
    if what == "tensorrt_llm":
        body = {"input_ids": [300] * tokens, "request_output_len": answer, "streaming": stream}
    else:
        body = {"text_input": " the" * tokens, "max_tokens": answer, "stream": stream}
    path = f"/v2/models/{what}/generate{'_stream' if stream else ''}"

    data = json.dumps(body).encode()

    async def client() -> list[tuple[int, float, bytes]]:
        return [await ask(server.port, path, data) for _ in range(rounds)]

    async def every() -> list[tuple[int, float, bytes]]:
        answers = await asyncio.gather(*(client() for _ in range(streams)))
        return [answer for its in answers for answer in its]

    cpu, started = server.cpu_seconds(), time.perf_counter()
    answers = asyncio.run(every())
    seconds = time.perf_counter() - started
    firsts = sorted(first for _, first, _ in answers)
    return {
        "responses/s": sum(count for count, _, _ in answers) / seconds,
        "tokens/s": len(answers) * answer / seconds,
        "requests/s": len(answers) / seconds,
        "first p50 ms": firsts[len(firsts) // 2] * 1e3,
        "first p99 ms": firsts[min(len(firsts) - 1, int(len(firsts) * 0.99))] * 1e3,
        "CPU s/1k tokens": (server.cpu_seconds() - cpu) / len(answers) / answer * 1e3,
    }


def compare(server: Server, turns: int, tokens: int) -> dict[tuple[str, int], dict[str, float]]:
    """Medians by (model, streams). The contestants run in turns; the first turn is a warm-up."""
    medians = {}
    for streams in STREAMS:
        runs: dict[str, list[dict]] = {"tensorrt_llm": [], "ensemble": [], "usual": []}
        for number in range(turns + 1):
            for what, its in runs.items():
                result = turn(server, what, streams, tokens, rounds=20 if streams == 1 else 1)
                if number:
                    its.append(result)
        for what, its in runs.items():
            medians[what, streams] = {k: statistics.median(r[k] for r in its) for k in its[0]}
            show(f"{what:>12} {streams:>4} streams", medians[what, streams], drop="requests/s")
    return medians


def show(name: str, figures: dict[str, float], drop: str = "") -> None:
    """Print *figures* in one line, without the one named *drop*."""
    click.echo(name + "".join(f"  {k} {v:8.2f}" for k, v in figures.items() if k != drop))


def ratio(name: str, ours: float, usual: float, goal: str) -> None:
    """Print the ratio of our result to the usual one, with the goal for it."""
    click.echo(f"  {name:<52} {ours / usual:6.2f} x   (goal {goal})")


@click.command(epilog="Example: python benchmarks/streaming.py --turns 3")
@click.option("--turns", default=5, show_default=True, help="Measured turns of each contestant.")
@click.option("--tokens", default=167, show_default=True, help="Tokens of each answer.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="[default: SmolLM2's]")
@click.option("--outputs", default="", help="Outputs of our ensemble, as for generate.")
def main(turns: int, tokens: int, tokenizer: Path | None, outputs: str) -> None:
    """Compare streaming through our ensemble with the usual one."""
    names = tuple(filter(None, outputs.split(",")))
    if tokenizer is None:
        script = [sys.executable, str(ROOT / "scripts" / "smollm2.py")]
        done = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True)
        tokenizer = Path(done.stdout.strip())
    with tempfile.TemporaryDirectory(prefix="streaming-") as folder:
        repository = Path(folder) / "one"
        build(repository, tokenizer, "1", names)
        with served(repository) as server:
            click.echo("One token per response")
            one = compare(server, turns, tokens)
            whole = {"ensemble": [], "usual": []}
            for _ in range(turns):
                for what, its in whole.items():
                    result = turn(server, what, 8, tokens, stream=False, rounds=40)
                    its.append(result["requests/s"])
            requests = {what: statistics.median(its) for what, its in whole.items()}
            # Answers of one token: in a longer stream the first token competes for the CPU with the
            # next ones, which this engine sends faster than any real one.
            alone = {"ensemble": [], "usual": []}
            for _ in range(turns):
                for what, its in alone.items():
                    its.append(turn(server, what, 1, tokens, rounds=100, answer=1)["first p50 ms"])
            first = {what: statistics.median(its) for what, its in alone.items()}
            memory = {m: server.megabytes(m) for m in
                      ("preprocessing", "usual_preprocessing", "postprocessing",
                       "usual_postprocessing")}  # fmt: skip
            ready = server.ready
            show("without streaming, 8 at once, requests/s:", requests)
            show("first token, answers of one token, 1 stream, p50 ms:", first)
            show("private memory, MB:", memory)
            show(
                "seconds until ready:",
                {name: s for name, s in ready.items() if "processing" in name},
            )
        repository = Path(folder) / "merging"
        build(repository, tokenizer, "", names)
        with served(repository) as server:
            click.echo(
                "\nOurs merges tokens into responses; usual still sends one token per response"
            )
            many = compare(server, turns, tokens)
    click.echo("\nOurs / usual")
    for streams, goal in ((32, ">= 1.5"), (128, ">= 1.2")):
        ours, usual = (one[what, streams]["tokens/s"] for what in ("ensemble", "usual"))
        ratio(f"tokens/s, one token per response, {streams} streams", ours, usual, goal)
    ours, usual = (many[what, 128]["tokens/s"] for what in ("ensemble", "usual"))
    ratio("tokens/s, merged tokens, 128 streams", ours, usual, ">= 5")
    ratio(
        "requests/s without streaming, 8 at once", requests["ensemble"], requests["usual"], ">= 1.2"
    )
    ratio("time to first token, 1 stream", first["ensemble"], first["usual"], "<= 1.05")
    ours, usual = (one[what, 1]["first p50 ms"] for what in ("ensemble", "usual"))
    ratio(f"  the same, with {tokens - 1} more tokens behind it", ours, usual, "-")
    for model in ("preprocessing", "postprocessing"):
        ratio(f"private memory of {model}", memory[model], memory[f"usual_{model}"], "<= 0.6")
        ratio(f"seconds until {model} is ready", ready[model], ready[f"usual_{model}"], "<= 0.6")


if __name__ == "__main__":
    main()
