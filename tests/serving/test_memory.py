"""10,000 short requests in a row: memory does not grow, and no context is left."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from harness import Server, generate_replay, launched, stub

pytestmark = pytest.mark.triton

THOUSANDS = 10
CLIENTS = 8


@pytest.fixture(scope="module")
def server(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("memory")
    with launched(generate_replay(folder / "repo", bpe_dir), folder) as server:
        yield server


def resident(server: Server, model: str) -> int:
    """KiB of private memory of a model's process."""
    lines = Path(f"/proc/{stub(server.process.pid, model)}/smaps_rollup").read_text().splitlines()
    return sum(int(li.split()[1]) for li in lines if li.startswith("Private_Dirty"))


def ask(server: Server, client: int, count: int) -> None:
    """Send *count* requests on one connection, with different texts; every second one streams."""
    # It must be closed: a server that stops waits for idle connections.
    with closing(http.client.HTTPConnection(urlsplit(server.http).netloc, timeout=60)) as to:
        for number in range(count):
            body = {
                "text_input": f"client {client} request {number} 世界",
                "stop_words": [f"{number} 世"],
                "stream": number % 2 == 0,
            }
            endpoint = "generate_stream" if body["stream"] else "generate"
            to.request("POST", f"/v2/models/ensemble/{endpoint}", json.dumps(body))
            lines = to.getresponse().read().decode().splitlines()
            events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
            assert "".join(e["text_output"] for e in events) == f"client {client} request "
            assert events[-1]["finish_reason"] == "stop"


def test_memory_is_flat_and_no_context_is_left(server: Server) -> None:
    sizes = []
    for _ in range(THOUSANDS):
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(ask, server, n, 1000 // CLIENTS) for n in range(CLIENTS)]
            for client in clients:
                client.result()
        sizes.append({m: resident(server, m) for m in ("preprocessing", "postprocessing")})
    assert server.contexts() == 0
    for model in ("preprocessing", "postprocessing"):
        first, last = sizes[0][model], sizes[-1][model]
        assert last <= first * 1.05, f"{model}: {[s[model] for s in sizes]}"
