"""The front end's process."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from harness import free_ports
from launching import until


def megabytes(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_large_bodies_give_their_memory_back() -> None:
    """400 clients at once have sent most of 200 KB, or all, when they hang up. No Triton runs."""
    port, nobody = free_ports(2)
    program = str(Path(sys.executable).with_name("trt-tokenizers"))
    options = ("--triton", f"127.0.0.1:{nobody}", "--port", str(port), "--no-access-log")
    body = json.dumps({"model": "ensemble", "prompt": "word " * 40_000}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    with subprocess.Popen([program, "openai", *options], stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: listens(port), 60)
            before = megabytes(process.pid)
            for _ in range(3):
                clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
                for number, client in enumerate(clients):
                    client.sendall(head + (body[: 130_000 + 100 * number] if number % 4 else body))
                time.sleep(0.5)
                for client in clients:
                    client.close()
            files = Path(f"/proc/{process.pid}/fd")
            until(lambda: len(list(files.iterdir())) < 30, 60)
            # 41 to 98 MB in six runs, 147 and 153 MB if large blocks do not go back at once.
            assert megabytes(process.pid) - before < 100
        finally:
            process.terminate()
