"""Tokens per second of the engine `transformers`, streamed over HTTP through the whole ensemble.

The script creates a model of random bf16 weights. The tokenizer is SmolLM2's, or the given one. All
ranks run on this host, each on one GPU, or all on its CPU.

    python benchmarks/engine.py --shape 7b --world-size 2
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
#: Shape -> hidden size, intermediate size, layers, heads, key-value heads.
SHAPES = {
    "tiny": (64, 160, 2, 4, 2),
    "1b": (2048, 5632, 22, 32, 4),
    "7b": (4096, 11008, 32, 32, 32),
    "8b": (4096, 14336, 32, 32, 8),
}


def make_model(folder: Path, shape: str, vocabulary: int) -> None:
    """Write a Llama of *shape* with random weights into *folder*."""
    import torch
    import transformers

    hidden, intermediate, layers, heads, kv_heads = SHAPES[shape]
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, max_position_embeddings=4096,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)


def make_model_elsewhere(folder: Path, shape: str, vocabulary: int) -> None:
    """Run `make_model` in another process, so that its GPU memory is freed."""
    command = [sys.executable, __file__, "make", str(folder), shape, str(vocabulary)]
    subprocess.run(command, check=True)


def copy_tokenizer(tokenizer: Path, folder: Path) -> None:
    """Copy all files of a tokenizer's folder except weights and config.json."""
    for file in tokenizer.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and file.name != "config.json":
            shutil.copy(file, folder)


async def ask(port: int, body: bytes) -> tuple[float, int]:
    """Send one request; return seconds to the first token and the number of tokens."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    started = time.perf_counter()
    head = "POST /v2/models/ensemble/generate_stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    first, parts = 0.0, []
    while part := await reader.read(1 << 16):
        if not first and b"text_output" in part:
            first = time.perf_counter() - started
        parts.append(part)
    writer.close()
    whole = b"".join(parts)
    counts = re.findall(rb'"num_output_tokens":(\d+)', whole)
    if not counts:
        sys.exit(whole.decode()[-500:])
    return first, int(counts[-1])


def turn(port: int, streams: int, tokens: int, **more: float) -> dict[str, float]:
    """Measure *streams* concurrent clients, each with a different prompt."""

    async def every() -> list[tuple[float, int]]:
        digits = ((" ".join(str((k * 7 + j) % 10) for j in range(14))) for k in range(streams))
        bodies = [
            {"text_input": f"Story number {k}: {d}", "max_tokens": tokens, "end_id": -1,
             "stream": True, **more}
            for k, d in enumerate(digits)
        ]  # fmt: skip
        return await asyncio.gather(*(ask(port, json.dumps(body).encode()) for body in bodies))

    started = time.perf_counter()
    answers = asyncio.run(every())
    seconds = time.perf_counter() - started
    firsts = sorted(first for first, _ in answers)
    return {
        "tokens/s": sum(count for _, count in answers) / seconds,
        "first p50 ms": firsts[streams // 2] * 1e3,
        "first p99 ms": firsts[min(streams - 1, int(streams * 0.99))] * 1e3,
    }


def gpu_memory() -> str:
    """The used memory of each GPU in MiB, by nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return "no GPU"
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, check=True, stdout=subprocess.PIPE, text=True)
    return ", ".join(done.stdout.split()) + " MiB"


def show(name: str, figures: dict[str, float]) -> None:
    click.echo(f"{name:>24}" + "".join(f"  {k} {v:9.1f}" for k, v in figures.items()))


@click.command(epilog="Example: python benchmarks/engine.py --shape 7b --world-size 2")
@click.option("--shape", type=click.Choice(list(SHAPES)), default="7b", show_default=True)
@click.option("--world-size", default=1, show_default=True, help="Number of ranks.")
@click.option("--streams", default="1,32,128", show_default=True, help="Concurrent clients.")
@click.option("--tokens", default=128, show_default=True, help="Tokens of each answer.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="[default: SmolLM2's]")
def main(shape: str, world_size: int, streams: str, tokens: int, tokenizer: Path | None) -> None:
    """Serve a model of random weights and measure its streams."""
    if tokenizer is None:
        script = [sys.executable, str(ROOT / "scripts" / "smollm2.py")]
        done = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True)
        tokenizer = Path(done.stdout.strip())
    with tempfile.TemporaryDirectory(prefix="engine-") as name:
        folder = Path(name)
        vocabulary = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
        make_model_elsewhere(folder / "model", shape, vocabulary)
        copy_tokenizer(tokenizer, folder / "model")
        generate = [str(BIN / "trt-tokenizers"), "generate", "--engine", "transformers"]
        generate += ["--model", str(folder / "model"), "--output", str(folder / "repo")]
        subprocess.run(generate, check=True, stderr=subprocess.DEVNULL)
        before, started = gpu_memory(), time.monotonic()
        ready, log = folder / "ready", folder / "log"
        launch = [str(BIN / "launch_server"), "--model-repo", str(folder / "repo")]
        launch += ["--world-size", str(world_size), "--http-port", "18700", "--grpc-port", "18701"]
        launch += ["--metrics-port", "18702", "--ready-file", str(ready)]
        with log.open("wb") as output:
            process = subprocess.Popen(launch, stdout=output, stderr=output)
        try:
            while not ready.exists():
                if process.poll() is not None:
                    sys.exit(log.read_text()[-3000:])
                time.sleep(0.1)
            click.echo(
                f"{shape}, {world_size} ranks, ready after {time.monotonic() - started:.1f} s"
            )
            counts = [int(count) for count in streams.split(",")]
            for count in counts:
                turn(18700, count, min(16, tokens))  # warm-up
                show(f"{count} streams", turn(18700, count, tokens))
            sampling = turn(18700, counts[-1], tokens, temperature=0.8, top_k=50, top_p=0.95)
            show(f"{counts[-1]} streams, sampling", sampling)
            click.echo(f"GPU memory: {before} before the start, {gpu_memory()} at the end")
        finally:
            process.send_signal(signal.SIGTERM)
            click.echo(
                f"launch_server: exit code {process.wait()}, GPU memory after it {gpu_memory()}"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make_model(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        main()
