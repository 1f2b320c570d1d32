"""A real server for tests: generated, launched and used as a user does."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient

from trt_tokenizers.streams.stream_folder import open_streams, stream_folder

Generated = dict[str, Any]


def free_ports(count: int) -> list[int]:
    """Ports below the kernel's range for outgoing connections, which could take one of them before
    the server binds to it. Each of pytest's workers has ports of its own for the same reason."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = range(10_000 + worker, ephemeral, 8)
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port, bound = random.SystemRandom().choice(ports), socket.socket()
            stack.enter_context(bound)
            with contextlib.suppress(OSError):
                bound.bind(("127.0.0.1", port))
                found.append(port)
        return found


@dataclass
class Server:
    """A running launch_server, and requests to it."""

    process: subprocess.Popen[bytes]
    http: str
    grpc: str
    metrics: str
    log: Path
    prefix: str = ""  # every answer begins with it

    def contexts(self) -> int:
        """Streams of this server that have not ended: contexts that wait or are in use."""
        return sum(
            len([*open_streams(stream_folder(pid))]) for pid in descendants(self.process.pid)
        )

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's values over all label sets that include *labels*."""
        with urllib.request.urlopen(self.metrics) as response:
            text = response.read().decode()
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        total = 0.0
        for line in text.splitlines():
            head, _, value = line.rpartition(" ")
            its_name, _, its_labels = head.rstrip("}").partition("{")
            if its_name == name and wanted <= set(its_labels.split(",")):
                total += float(value)
        return total

    def generate(self, body: Any, model: str = "ensemble") -> tuple[int, Any]:
        """Status and JSON of POST /generate. A *body* of bytes is sent unchanged."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.http}/v2/models/{model}/generate", data=data)
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def ask(self, body: dict[str, Any]) -> Generated:
        status, answer = self.generate(body)
        assert status == 200, answer
        return dict(answer)

    def streams(
        self, bodies: list[dict[str, Any]], timeout: float = 300, *, ids: str = "request-"
    ) -> list[list[Generated]]:
        """Send all requests at once on one gRPC stream; the responses to each, in order."""
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        got: list[list[Generated]] = [[] for _ in bodies]
        with grpcclient.InferenceServerClient(self.grpc) as client:
            client.start_stream(callback=lambda result, error: answers.put((result, error)))
            for number, body in enumerate(bodies):
                client.async_stream_infer(
                    "ensemble",
                    tensors(body),
                    request_id=f"{ids}{number}",
                    enable_empty_final_response=True,
                )
            open_ = len(bodies)
            while open_:
                result, error = answers.get(timeout=timeout)
                assert error is None, error
                response = result.get_response()
                outputs = {o.name: result.as_numpy(o.name) for o in response.outputs}
                if outputs:
                    got[int(response.id.removeprefix(ids))].append(outputs)
                open_ -= response.parameters["triton_final_response"].bool_param
            client.stop_stream()
        return got

    def sse(self, body: dict[str, Any]) -> list[Generated]:
        """The events of POST /generate_stream."""
        url = f"{self.http}/v2/models/ensemble/generate_stream"
        request = urllib.request.Request(url, data=json.dumps({**body, "stream": True}).encode())
        with urllib.request.urlopen(request, timeout=300) as response:
            lines = [line for line in response if line.startswith(b"data: ")]
        return [json.loads(line.removeprefix(b"data: ")) for line in lines]

    def preprocess(
        self, body: dict[str, Any], model: str = "preprocessing", request_id: str = ""
    ) -> dict[str, Any]:
        """Outputs of the model preprocessing, or of another one like it, without the ensemble."""
        names = {"text_input": "QUERY"}
        with grpcclient.InferenceServerClient(self.grpc) as client:
            inputs = tensors({names.get(name, name.upper()): v for name, v in body.items()})
            result = client.infer(model, inputs, request_id=request_id)
            return {o.name: result.as_numpy(o.name) for o in result.get_response().outputs}


_TYPES = {
    "max_tokens": ("INT32", np.int32), "min_tokens": ("INT32", np.int32),
    "top_k": ("INT32", np.int32), "end_id": ("INT32", np.int32),
    "temperature": ("FP32", np.float32), "top_p": ("FP32", np.float32),
    "seed": ("UINT64", np.uint64), "stream": ("BOOL", bool),
    "return_log_probs": ("BOOL", bool),
}  # fmt: skip


def tensors(body: dict[str, Any]) -> list[grpcclient.InferInput]:
    """The request *body* as gRPC tensors, a batch of one."""
    made = []
    for name, value in body.items():
        values = value if isinstance(value, list) else [value]
        default = ("BOOL", bool) if isinstance(values[0], bool) else ("BYTES", np.object_)
        triton_type, dtype = _TYPES.get(name, default)
        if triton_type == "BYTES":
            values = [v.encode() for v in values]
        tensor = grpcclient.InferInput(name, [1, len(values)], triton_type)
        tensor.set_data_from_numpy(np.array([values], dtype=dtype))
        made.append(tensor)
    return made


def joined(chunks: list[Generated]) -> str:
    return b"".join(c["text_output"].ravel()[0] for c in chunks).decode()


@contextlib.contextmanager
def launched(
    repository: Path, folder: Path, *more: str, exit_code: int | None = 0, ready_s: float = 180
) -> Iterator[Server]:
    """Run `launch_server` on free ports until the block ends.

    Then it must exit with *exit_code* (None: any but 0) and leave nothing in /dev/shm.
    """
    http, grpc, metrics = free_ports(3)
    ready, log = folder / "ready", folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("launch_server")),
                *("--model-repo", str(repository), "--ready-file", str(ready)),
                *("--http-port", str(http), "--grpc-port", str(grpc)),
                *("--metrics-port", str(metrics), *more),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + ready_s
            while not ready.exists():
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(0.1)
            ours = shm_names(process.pid)
            yield Server(
                process,
                f"http://127.0.0.1:{http}",
                f"127.0.0.1:{grpc}",
                f"http://127.0.0.1:{metrics}/metrics",
                log,
            )
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            code = process.wait(timeout=60)
    assert code == exit_code or (exit_code is None and code), log.read_text()[-4000:]
    deadline = time.monotonic() + 10  # the agents of a killed launcher may still clean up
    while (left := in_shm(ours)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, left


def shm_names(launcher: int) -> list[str]:
    """Prefixes of the names of a launch's files in /dev/shm; no other launch has the same."""
    names = []
    for pid in descendants(launcher):
        names.append(f"trt-tokenizers-{pid}-")
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            names += re.findall(r"shm-region-prefix-name=(trt-launch-\w+-)", line)
    assert any(name.startswith("trt-launch-") for name in names)
    return names


def in_shm(names: list[str]) -> list[str]:
    found = (path.name for path in Path("/dev/shm").iterdir())
    return [name for name in found if name.startswith(tuple(names))]


def generate(output: Path, *arguments: str) -> Path:
    """`trt-tokenizers generate`, as a user runs it."""
    program = str(Path(sys.executable).with_name("trt-tokenizers"))
    subprocess.run([program, "generate", *arguments, "--output", str(output)], check=True)
    return output


#: Arguments of ``generate --engine vllm`` for exact answers with little memory.
VLLM_ON_A_CPU = (
    "--engine-arg=dtype=float32", "--engine-arg=enforce_eager=true",
    "--engine-arg=kv_cache_memory_bytes=1000000000",
)  # fmt: skip


def with_double(repository: Path) -> Path:
    """Let the engine of *repository* find the double of TensorRT-LLM."""
    # The stub of the pip wheel's server ignores PYTHONPATH; it imports from the model's own folder.
    double = Path(__file__).parents[1] / "fakes" / "tensorrt_llm"
    (repository / "tensorrt_llm" / "1" / "tensorrt_llm").symlink_to(double)
    return repository


def generate_replay(output: Path, tokenizer_dir: Path, *arguments: str) -> Path:
    """A repository whose engine is tests/support/replay.py: the answer is the prompt."""
    model = output.with_name(f"{output.name}-model")
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 65536}))
    generate(
        output,
        *("--engine", "replay:ReplayEngine", "--model", str(model)),
        *("--tokenizer-dir", str(tokenizer_dir), *arguments),
    )
    # Triton adds the folder of a model's model.py to its import path.
    shutil.copy(Path(__file__).with_name("replay.py"), output / "tensorrt_llm" / "1")
    return output


def without_keys(repository: Path) -> Path:
    """Replace the engine of a replay repository by one with TensorRT-LLM's own tensors only."""
    engine = repository / "tensorrt_llm"
    shutil.copy(Path(__file__).with_name("keyless.py"), engine / "1" / "model.py")
    config = engine / "config.pbtxt"
    text = _without_tensors(config.read_text(), "stream_key")
    stop = 'input { name: "stop" data_type: TYPE_BOOL dims: [ 1 ] optional: true }\n'
    config.write_text(text + stop)
    ensemble = repository / "ensemble" / "config.pbtxt"
    text = "".join(
        line
        for line in ensemble.read_text().splitlines(keepends=True)
        if "stream_key" not in line and "STREAM_KEY" not in line and "LOG_PROBS" not in line
    )
    text = text.replace(
        'output_map { key: "output_ids" value: "_TOKENS_BATCH" }',
        'output_map { key: "output_ids" value: "_TOKENS_BATCH" }\n'
        '      output_map { key: "sequence_length" value: "_SEQUENCE_LENGTH" }',
    ).replace(
        'input_map { key: "TOKENS_BATCH" value: "_TOKENS_BATCH" }',
        'input_map { key: "TOKENS_BATCH" value: "_TOKENS_BATCH" }\n'
        '      input_map { key: "SEQUENCE_LENGTH" value: "_SEQUENCE_LENGTH" }',
    )
    ensemble.write_text(_without_tensors(text, "output_log_probs", "cum_log_probs"))
    for model in ("preprocessing", "postprocessing"):
        path = repository / model / "config.pbtxt"
        text = path.read_text().replace('string_value: "tensor"', 'string_value: "auto"')
        path.write_text(re.sub(r'(key: "stop_model"\n.*)""', r'\1"tensorrt_llm"', text))
    return repository


def _without_tensors(text: str, *names: str) -> str:
    """A config.pbtxt without some of its inputs and outputs."""
    for name in names:
        text = re.sub(rf'(?m)^(in|out)put {{ name: "{name}" .*\n', "", text)
    return text


def stub(launcher: int, model: str) -> int | None:
    """Process id of the first Python process of *model* below *launcher*."""
    for pid in descendants(launcher):
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if arguments[0].endswith(b"stub") and f"/{model}/1/".encode() in arguments[1]:
                return pid
    return None


def descendants(pid: int) -> set[int]:
    """Process ids below *pid*, from /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}
