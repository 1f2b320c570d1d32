"""The demo: generate a model repository, start a server, ask two questions.

scripts/demo           print the answers, then stop the server
scripts/demo --serve   leave the server running until Ctrl-C
scripts/demo --openai  ask by OpenAI's API; prints the Python program and its answer
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from trt_tokenizers import client
from trt_tokenizers.launcher.launch import last_log

ROOT = Path(__file__).parents[1]
PROGRAM = """\
from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:{port}/v1", api_key="none")
stream = client.chat.completions.create(
    model="ensemble",
    messages=[{{"role": "user", "content": "{question}"}}],
    temperature=0,
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="")
"""
QUESTIONS = ["What is the capital of France?", "Count from one to ten."]


@click.command(epilog="Example: scripts/demo --serve")
@click.option("--serve", is_flag=True, help="Leave the server running until Ctrl-C.")
@click.option("--openai", "by_openai", is_flag=True, help="Ask by OpenAI's API.")
@click.option("--http-port", type=int, help="[default: 8000 with --serve, else a free one]")
def main(serve: bool, by_openai: bool, http_port: int | None) -> None:
    """Serve SmolLM2-135M-Instruct through a real Triton and ask it two questions."""
    started = time.monotonic()
    model = run([sys.executable, str(ROOT / "scripts" / "smollm2.py")])
    with tempfile.TemporaryDirectory(prefix="trt-tokenizers-demo-") as folder:
        repository, ready = Path(folder) / "model_repo", Path(folder) / "ready"
        run(["trt-tokenizers", "generate", "--engine", "transformers", "--model", model,
             "--output", str(repository)])  # fmt: skip
        port = http_port or (8000 if serve else free_port())
        ports = [port, *((8001, 8002) if serve else (free_port(), free_port()))]
        command = ["launch_server", "--model-repo", str(repository), "--ready-file", str(ready)]
        command += ["--log-file", str(last_log("demo"))]  # a failure shows what explains it
        for name, number in zip(("http", "grpc", "metrics"), ports, strict=True):
            command += [f"--{name}-port", str(number)]
        openai_port = 9000 if serve else free_port()
        if by_openai:
            command += ["--openai-port", str(openai_port)]
        # In its own session, so that Ctrl-C reaches only this script, which then stops the server.
        server = subprocess.Popen(command, stdout=sys.stderr, start_new_session=True)
        try:
            while not ready.exists() and server.poll() is None:
                time.sleep(0.1)
            if server.poll() is None:
                if by_openai:
                    answer_by_openai(openai_port)
                else:
                    answer(f"http://127.0.0.1:{port}")
                seconds = time.monotonic() - started
                click.echo(f"\n({seconds:.0f} s from the start to the end of the answers)")
                if serve:
                    click.echo(f"\nServing until Ctrl-C. Send a request:\n\n{curl(port)}\n")
                    server.wait()
        except KeyboardInterrupt:
            click.echo()
        finally:
            if server.poll() is None:
                server.send_signal(signal.SIGTERM)
            code = server.wait()
    sys.exit(code)


def answer(url: str) -> None:
    """Ask one question without streaming and one with it."""
    endpoint = f"{url}/v2/models/ensemble/generate"
    whole = client.generate(url, payload(QUESTIONS[0]))
    click.echo(f"\nPOST {endpoint}\n> {QUESTIONS[0]}\n{whole['text_output']}")
    click.echo(f"\nPOST {endpoint}_stream\n> {QUESTIONS[1]}")
    for event in client.stream(url, {**payload(QUESTIONS[1]), "stream": True}):
        click.echo(event["text_output"], nl=False)
    click.echo()


def answer_by_openai(port: int) -> None:
    """Show a small program for OpenAI's library, and run it."""
    program = PROGRAM.format(port=port, question=QUESTIONS[0])
    click.echo(f"\n{program}")
    click.echo(run([sys.executable, "-c", program]))


def payload(question: str) -> dict[str, object]:
    return {"messages": json.dumps([{"role": "user", "content": question}]), "max_tokens": 64}


def curl(port: int) -> str:
    body = json.dumps({"messages": json.dumps([{"role": "user", "content": QUESTIONS[0]}])})
    url = f"localhost:{port}/v2/models/ensemble/generate"
    return f"curl -X POST {url} -H 'Content-Type: application/json' -d '{body}'"


def run(command: list[str]) -> str:
    """Run *command* and return its stdout; if it fails, exit with its exit code."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
