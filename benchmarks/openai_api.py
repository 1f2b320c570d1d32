"""Measures what the OpenAI-compatible front end costs: the same requests through it and by gRPC.

The engine returns the prompt at full speed. Client, front end and server share the machine's cores.

    python benchmarks/openai_api.py [--turns 3] [--tokens 167]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import click
from streaming import ROOT, STREAMS, TICKS, build, served

from trt_tokenizers.openai.triton import Triton

PORT = 18640
#: Seconds to the first text, and the number of responses.
Asked = tuple[float, int]
Ask = Callable[[], Awaitable[Asked]]


@contextlib.contextmanager
def front_end(grpc_port: int, *options: str) -> Iterator[int]:
    """Run trt-tokenizers openai; its process id."""
    program = str(Path(sys.executable).with_name("trt-tokenizers"))
    process = subprocess.Popen(
        [program, "openai", "--triton", f"127.0.0.1:{grpc_port}", "--port", str(PORT),
         "--no-access-log", *options],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def megabytes(pid: int) -> float:
    """Peak of the process's memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def by_http(path: str, body: bytes) -> Ask:
    """A client of the front end that keeps its connections, as OpenAI's libraries do.

    It uses plain sockets, to keep its own CPU time low.
    """
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask() -> Asked:
        connection = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", PORT)
        reader, writer = connection
        started = time.perf_counter()
        writer.write(request)
        first, responses, last = 0.0, 0, b""
        while not last.endswith(b"\r\n0\r\n\r\n"):
            part = await reader.read(1 << 16)
            if not part:
                sys.exit(f"the answer is cut: {last!r}")
            if not first and b"data: " in part:
                first = time.perf_counter() - started
            responses += part.count(b"data: ")
            last = (last + part)[-40:]
        if b"[DONE]" not in last:
            sys.exit(f"the answer is cut: {last!r}")
        idle.append(connection)
        return first, responses

    return ask


def by_grpc(triton: Triton, text: str, tokens: int) -> Ask:
    """A client of the ensemble."""
    inputs = {"text_input": text.encode(), "max_tokens": tokens, "temperature": 1.0, "stream": True}

    async def ask() -> Asked:
        started = time.perf_counter()
        first, responses = 0.0, 0
        async for step in triton.stream(inputs, (), os.urandom(8).hex()):
            first = first or (time.perf_counter() - started if step.text else 0.0)
            responses += 1
        return first, responses

    return ask


async def turn(ask: Ask, streams: int, rounds: int) -> tuple[float, float, int]:
    """Seconds, median seconds to the first text, and responses of all streams."""

    async def client() -> list[Asked]:
        return [await ask() for _ in range(rounds)]

    started = time.perf_counter()
    asked = [each for one in await asyncio.gather(*(client() for _ in range(streams)))
             for each in one]  # fmt: skip
    seconds = time.perf_counter() - started
    return seconds, statistics.median(a[0] for a in asked), sum(a[1] for a in asked)


async def measure(grpc_port: int, pid: int, text: str, tokens: int, turns: int, least: int) -> None:
    """Compare the ways. Each client has at least *least* requests, one after another."""
    triton = Triton(f"127.0.0.1:{grpc_port}")
    body = {"model": "ensemble", "prompt": text, "max_tokens": tokens, "stream": True}
    chat = {"model": "ensemble", "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens, "stream": True}  # fmt: skip
    for streams in STREAMS:
        ways = {
            "gRPC": by_grpc(triton, text, tokens),
            "completions": by_http("/v1/completions", json.dumps(body).encode()),
            "chat": by_http("/v1/chat/completions", json.dumps(chat).encode()),
        }
        rounds = max(least, 16 // streams)
        figures: dict[str, list[tuple[float, float, int, float]]] = {way: [] for way in ways}
        for _ in range(turns):
            for way, ask in ways.items():
                await turn(ask, streams, 1)  # warm, and connected
                before = cpu_seconds(pid)
                seconds, first, responses = await turn(ask, streams, rounds)
                used = cpu_seconds(pid) - before
                figures[way].append((seconds, first, responses, used))
        rate = {}
        for way, rows in figures.items():
            seconds, first, responses, used = (
                statistics.median(x) for x in zip(*rows, strict=True)
            )
            rate[way] = streams * rounds * tokens / seconds
            click.echo(
                f"{streams:4} streams  {way:12} {rate[way]:9,.0f} tokens/s"
                f"  {rate[way] / rate['gRPC']:5.2f} x  first {first * 1e3:6.1f} ms"
                f"  {responses / streams / rounds:6.1f} responses an answer"
                f"  front end {used / max(1, responses) * 1e6:5.0f} us a response"
            )
    await triton.close()


@click.command()
@click.option("--turns", default=3, help="Turns of each contestant; the median counts.")
@click.option("--tokens", default=167, help="Tokens of an answer.")
def main(turns: int, tokens: int) -> None:
    """Compare the front end with gRPC straight to the ensemble."""
    tokenizer = Path(
        subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "smollm2.py")],
            check=True, stdout=subprocess.PIPE, text=True,
        ).stdout.strip()
    )  # fmt: skip
    text = " the" * tokens  # the template adds nothing, so this is the answer
    with tempfile.TemporaryDirectory(prefix="bench-openai-") as folder:
        for name, merged, rounds in (("one token a response", "1", 1), ("gathered", "", 4)):
            repository = Path(folder) / f"repo{merged}"
            build(repository, tokenizer, merged, template="{{ messages[0]['content'] }}")
            with served(repository) as server:
                for parser in ("none", "think"):
                    with front_end(server.port + 1, "--reasoning-parser", parser) as pid:
                        asyncio.run(asyncio.sleep(3))
                        click.echo(f"{name}, reasoning parser {parser}")
                        asyncio.run(measure(server.port + 1, pid, text, tokens, turns, rounds))
                        click.echo(f"     memory of the front end: {megabytes(pid):.0f} MB")


if __name__ == "__main__":
    main()
