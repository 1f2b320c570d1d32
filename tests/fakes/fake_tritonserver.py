"""A fake tritonserver: its flags, ports, log lines, shared memory and stubs, without inference.

Like tritonserver, it does not collect a killed stub. The environment configures it:

    FAKE_STATE        it writes JSON of its process ids and command line to this path plus .RANK
    FAKE_LOAD         seconds until rank 0 is ready (0)
    FAKE_FAIL         on this rank a model fails to load: the real log lines, then exit code 1
    FAKE_ABORTS       it aborts while it loads, like a server that lost a stub, the first
                      FAKE_ABORT_COUNT times (1); this file counts them
    FAKE_STUCK        it only counts SIGTERM and SIGINT

A rank other than 0 loads forever, like a real one whose engine runs inside initialize().
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from trt_tokenizers.streams.stream_folder import stream_folder

FLAGS = dict(a.removeprefix("--").split("=", 1) for a in sys.argv[1:] if a.count("="))
PREFIX = FLAGS["backend-config"].partition("shm-region-prefix-name=")[2]
LAUNCH, _, RANK = PREFIX.rstrip("-").rpartition("-r")
STREAMS = stream_folder(os.getpid())
signals: list[int] = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer([])

    def do_POST(self) -> None:
        self.answer([{"name": m, "version": "1", "state": "READY"} for m in ("one", "two")])

    def answer(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None: ...


def main() -> None:
    # Without it, an agent would take the folder of another server for this one's.
    environment = tempfile.mkdtemp(prefix="python_env_", dir="/tmp")
    regions = [Path(f"/dev/shm/{PREFIX}{number}") for number in range(2)]
    for region in regions:
        region.write_bytes(b"x" * 64)
    STREAMS.mkdir()
    (STREAMS / "1").write_text("a stream's context")
    # The stub ignores SIGTERM and SIGINT, like one that hangs in a driver.
    ignore = "import signal as s, time; s.signal(15, s.SIG_IGN); s.signal(2, s.SIG_IGN); "
    stub = subprocess.Popen(
        [sys.executable, "-S", "-c", ignore + "time.sleep(600)", "models/one/1/model.py", PREFIX]
    )
    state = {"pid": os.getpid(), "stub": stub.pid, "launch": LAUNCH, "argv": sys.argv[1:]}
    scratch = Path(f"{os.environ['FAKE_STATE']}-{RANK}.new")
    scratch.write_text(json.dumps(state))
    scratch.rename(f"{os.environ['FAKE_STATE']}.{RANK}")

    sys.stdout.write("standard output of the server\n")
    sys.stdout.flush()
    log('E1123 15:49:25.0 7 server.cc:241] "CudaDriverHelper has not been initialized."')
    for model in ("one", "two"):
        log(f'I1123 15:49:25.0 7 model_lifecycle.cc:472] "loading: {model}:1"')
    log("I1123 15:49:25.1 7 model_lifecycle.cc:839] \"successfully loaded 'one'\"")
    if os.environ.get("FAKE_FAIL") == RANK:
        log(
            "E1123 15:49:25.1 7 model_lifecycle.cc:642] \"failed to load 'two' version 1: "
            'Internal: ValueError: no tokenizer\\n\\nAt:\\n  model.py(3): initialize\\n"'
        )
        log("error: creating server: Internal - failed to load all models")
        sys.exit(1)
    if "FAKE_ABORTS" in os.environ:
        with open(os.environ["FAKE_ABORTS"], "a+") as file:  # noqa: PTH123
            if file.seek(0, os.SEEK_END) < int(os.environ.get("FAKE_ABORT_COUNT", "1")):
                file.write("x")
                file.flush()
                log("  what():  boost::interprocess::lock_exception")
                os.abort()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # handlers follow after loading
    time.sleep(float(os.environ.get("FAKE_LOAD", "0")) if RANK == "0" else 600)
    signal.signal(signal.SIGINT, lambda n, _: signals.append(n))
    signal.signal(signal.SIGTERM, lambda n, _: signals.append(n))
    server = http.server.HTTPServer(
        (FLAGS["http-address"], int(FLAGS["http-port"])), Handler, bind_and_activate=False
    )
    server.allow_reuse_address = True
    server.server_bind()
    server.server_activate()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while not signals or os.environ.get("FAKE_STUCK"):
        time.sleep(0.02)
    time.sleep(0.2)  # a second signal would be a bug
    log(f"signals: {signals}")
    stub.kill()
    for region in regions:
        region.unlink()
    Path(environment).rmdir()
    os._exit(0)


def log(line: str) -> None:
    sys.stderr.write(line + "\n")


main()
