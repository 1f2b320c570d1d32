"""Tokens per second of an engine, streamed over HTTP through the ensemble; of vLLM also alone.

The script creates a model of random bf16 weights. The tokenizer is SmolLM2's, or the given one. All
ranks run on this host, each on one GPU, or all on its CPU.

    python benchmarks/engine.py --shape 7b --world-size 2
    python benchmarks/engine.py --engine vllm --shape 7b --engine-arg tensor_parallel_size=2 --alone
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from trt_tokenizers.repository.pbtxt import parse_config

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TURNS = 4  # the figures are medians of so many
SAMPLING = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}
#: Shape -> hidden size, intermediate size, layers, heads, key-value heads.
SHAPES = {
    "tiny": (64, 160, 2, 2, 1),
    "135m": (576, 1536, 30, 9, 3),
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


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
#: Seconds to the first token, and the number of tokens.
Answer = tuple[float, int]


async def connect(port: int) -> Connection:
    """A connection to the server, for one request."""
    return await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)


async def ask(connection: Connection, body: bytes) -> Answer:
    """Send one request."""
    reader, writer = connection
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


def lengths(streams: int, tokens: int, answers: int) -> list[list[int]]:
    """For each client the tokens of its answers, which it asks for one after another.

    A single client gives one sample of the first token an answer, so it asks 20 times. Several
    answers of each client have half to one and a half times *tokens*, so that clients do not begin
    and end together.
    """
    if streams == 1:
        return [[tokens] * 20]
    if answers == 1:
        return [[tokens]] * streams
    return [
        [tokens // 2 + (client * 37 + answer * 53) % (tokens + 1) for answer in range(answers)]
        for client in range(streams)
    ]


def turn(port: int, streams: int, tokens: int, answers: int = 1, **more: float) -> dict[str, float]:
    """Measure *streams* concurrent clients, each with a different prompt.

    The time begins when all are connected, as it does for clients that keep their connections. A
    client connects again for each further answer.
    """

    async def client(connection: Connection, prompt: str, each: list[int]) -> list[Answer]:
        found: list[Answer] = []
        for tokens in each:
            body = {"text_input": prompt, "max_tokens": tokens, "end_id": -1, "stream": True}
            found.append(
                await ask(
                    await connect(port) if found else connection,
                    json.dumps({**body, **more}).encode(),
                )
            )
        return found

    async def every() -> dict[str, float]:
        connections = [await connect(port) for _ in range(streams)]
        started = time.perf_counter()
        asked = map(client, connections, prompts(streams), lengths(streams, tokens, answers))
        found = await asyncio.gather(*asked)
        return figures(found, time.perf_counter() - started)

    return asyncio.run(every())


def prompts(streams: int) -> list[str]:
    """Different prompts of about the same length."""
    digits = ((" ".join(str((k * 7 + j) % 10) for j in range(14))) for k in range(streams))
    return [f"Story number {k}: {d}" for k, d in enumerate(digits)]


def figures(clients: list[list[Answer]], seconds: float) -> dict[str, float]:
    """Tokens per second of all answers, and the time to the first token."""
    answers = [answer for each in clients for answer in each]
    number = len(answers)
    firsts = sorted(first for first, _ in answers)
    return {
        "tokens/s": sum(count for _, count in answers) / seconds,
        "first p50 ms": firsts[number // 2] * 1e3,
        "first p99 ms": firsts[min(number - 1, int(number * 0.99))] * 1e3,
    }


async def vllm_alone(
    folder: Path, counts: list[int], tokens: int, answers: int, engine_args: str
) -> None:
    """Measure vLLM's AsyncLLM in this process with the same prompts, without Triton and text."""
    import tokenizers
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    args = AsyncEngineArgs(
        model=str(folder), skip_tokenizer_init=True, disable_log_stats=True, max_model_len=4096,
        **json.loads(engine_args),
    )  # fmt: skip
    llm = AsyncLLM.from_engine_args(args)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    async def ask(name: str, ids: list[int], params: SamplingParams) -> Answer:
        started, first, count = time.perf_counter(), 0.0, 0
        prompt = {"type": "token", "prompt_token_ids": ids}
        async for step in llm.generate(prompt, params, name):
            first = first or time.perf_counter() - started
            count += len(step.outputs[0].token_ids)
        return first, count

    async def turn(streams: int, tokens: int, answers: int = 1, **more: float) -> dict[str, float]:
        ids = [encoding.ids for encoding in tokenizer.encode_batch(prompts(streams))]
        started = time.perf_counter()

        async def client(number: int, each: list[int]) -> list[Answer]:
            found: list[Answer] = []
            for tokens in each:
                params = SamplingParams(
                    max_tokens=tokens, ignore_eos=True, detokenize=False,
                    output_kind=RequestOutputKind.DELTA, **{"temperature": 0.0, **more},
                )  # fmt: skip
                name = f"{started}-{number}-{len(found)}"
                found.append(await ask(name, ids[number], params))
            return found

        asked = map(client, range(streams), lengths(streams, tokens, answers))
        found = await asyncio.gather(*asked)
        return figures(found, time.perf_counter() - started)

    for count in counts:
        await turn(count, min(16, tokens))  # warm-up
        each = [await turn(count, tokens, answers) for _ in range(TURNS)]
        show(f"vLLM alone, {count} streams", medians(each))
    each = [await turn(counts[-1], tokens, answers, **SAMPLING) for _ in range(TURNS)]
    show(f"vLLM alone, {counts[-1]} streams, sampling", medians(each))
    llm.shutdown()


def gpu_memory() -> str:
    """The used memory of each GPU in MiB, by nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return "no GPU"
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, check=True, stdout=subprocess.PIPE, text=True)
    return ", ".join(done.stdout.split()) + " MiB"


def medians(turns: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in turns) for name in turns[0]}


def show(name: str, figures: dict[str, float]) -> None:
    click.echo(f"{name:>36}" + "".join(f"  {k} {v:9.1f}" for k, v in figures.items()))


@click.command(epilog="Example: python benchmarks/engine.py --shape 7b --world-size 2")
@click.option("--shape", type=click.Choice(list(SHAPES)), default="7b", show_default=True)
@click.option("--engine", type=click.Choice(["transformers", "vllm"]), default="transformers")
@click.option("--engine-arg", "engine_args", multiple=True, help="As for generate.")
@click.option("--alone", is_flag=True, help="Afterwards, measure vLLM without the ensemble.")
@click.option("--world-size", default=1, show_default=True, help="Number of ranks.")
@click.option("--streams", default="1,32,128", show_default=True, help="Concurrent clients.")
@click.option("--tokens", default=128, show_default=True, help="Tokens of each answer.")
@click.option("--answers", default=1, show_default=True, help="Answers of each client; more than "
              "one have different lengths. A single client asks 20 times.")  # fmt: skip
@click.option("--tokenizer", type=click.Path(path_type=Path), help="[default: SmolLM2's]")
def main(
    shape: str, engine: str, engine_args: tuple[str, ...], alone: bool, world_size: int,
    streams: str, tokens: int, answers: int, tokenizer: Path | None,
) -> None:  # fmt: skip
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
        generate = [str(BIN / "trt-tokenizers"), "generate", "--engine", engine]
        generate += [f"--engine-arg={pair}" for pair in engine_args]
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
                f"{engine}, {shape}, {world_size} ranks, "
                f"ready after {time.monotonic() - started:.1f} s"
            )
            counts = [int(count) for count in streams.split(",")]
            for count in counts:
                turn(18700, count, min(16, tokens))  # warm-up
                each = [turn(18700, count, tokens, answers) for _ in range(TURNS)]
                show(f"{count} streams", medians(each))
            sampling = [turn(18700, counts[-1], tokens, answers, **SAMPLING) for _ in range(TURNS)]
            show(f"{counts[-1]} streams, sampling", medians(sampling))
            click.echo(f"GPU memory: {before} before the start, {gpu_memory()} at the end")
        finally:
            process.send_signal(signal.SIGTERM)
            click.echo(
                f"launch_server: exit code {process.wait()}, GPU memory after it {gpu_memory()}"
            )
        if alone:
            config = (folder / "repo" / "tensorrt_llm" / "config.pbtxt").read_text()
            args = parse_config(config).parameters["engine_args"].string_value or "{}"
            command = [sys.executable, __file__, "alone", str(folder / "model"), streams]
            subprocess.run([*command, str(tokens), str(answers), args], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make_model(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1:2] == ["alone"]:
        counts = [int(count) for count in sys.argv[3].split(",")]
        tokens, answers = map(int, sys.argv[4:6])
        asyncio.run(vllm_alone(Path(sys.argv[2]), counts, tokens, answers, sys.argv[6]))
    else:
        main()
