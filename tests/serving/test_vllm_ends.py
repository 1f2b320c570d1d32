"""launch_server with the engine `vllm`: every way to end leaves no process and no shared memory."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import VLLM_ON_A_CPU, Server, descendants, generate, launched
from launching import parent

pytest.importorskip("vllm", reason="not applicable: see scripts/test --vllm")

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore")]

_DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def repository(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Serves a tiny Llama of random weights."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("vllm")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=600, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=8192,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "model")
    for file in bpe_dir.iterdir():
        shutil.copy(file, folder / "model")
    model = ("--engine", "vllm", "--model", str(folder / "model"))
    return generate(folder / "repo", *model, *VLLM_ON_A_CPU)


def process(server: Server, text: str) -> int:
    """The process below the launcher whose name or command line contains *text*."""
    found = []
    for pid in sorted(descendants(server.process.pid)):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        if text in line.replace("\0", " "):
            found.append(pid)
    assert len(found) == 1, (text, found)
    return found[0]


def shared_memory() -> set[str]:
    """Names that multiprocessing gives, or that the engine gives instead."""
    names = (path.name for path in Path("/dev/shm").iterdir())
    return {name for name in names if re.match(r"psm_|sem\.|.*-vllm-", name)}


#: What is killed -> how to find it, and the expected reason in the launcher's last line.
FAULTS: dict[str, tuple[Callable[[Server], int], str]] = {
    "EngineCore": (lambda s: process(s, "VLLM::EngineCore"), "tensorrt_llm"),
    "worker": (lambda s: process(s, "VLLM::Worker"), "tensorrt_llm"),
    "stub": (lambda s: process(s, "/tensorrt_llm/1/model.py"), "tensorrt_llm"),
    "tritonserver": (lambda s: parent(process(s, "/tensorrt_llm/1/model.py")), "SIGKILL"),
    "launcher": (lambda s: s.process.pid, ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_killed_process_ends_everything(repository: Path, tmp_path: Path, fault: str) -> None:
    find, reason = FAULTS[fault]
    before = shared_memory()
    with launched(repository, tmp_path, exit_code=None) as server:
        assert server.ask({"text_input": "a", "max_tokens": 4, "end_id": -1})["text_output"]
        pids = descendants(server.process.pid)
        busy = {"text_input": "a", "max_tokens": 8000, "end_id": -1}
        asking = threading.Thread(target=server.generate, args=(busy,), daemon=True)
        asking.start()
        victim = find(server)
        os.kill(victim, signal.SIGKILL)
        killed_at = time.monotonic()
        assert server.process.wait(timeout=_DEADLINE_S) != 0
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < killed_at + _DEADLINE_S, "a process survived"
            time.sleep(0.05)
        if reason:
            last = server.log.read_text().splitlines()[-1]
            assert last.startswith("error: ")
            assert reason in last
    assert shared_memory() <= before


def test_ctrl_c_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    before = shared_memory()
    with launched(repository, tmp_path) as server:
        time.sleep(1.2)  # until the gauges are handed over
        with urllib.request.urlopen(server.metrics) as response:
            metrics = response.read().decode()
        for name in ("engine_kv_cache_usage", "engine_requests_waiting"):
            assert re.search(rf"trt_tokenizers:{name}{{.*}} 0\n", metrics)
        pids = descendants(server.process.pid)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert shared_memory() <= before


def test_a_model_that_does_not_start_gives_the_reason(repository: Path, tmp_path: Path) -> None:
    """The last line of the launcher has vLLM's own reason."""
    config = tmp_path / "repo" / "tensorrt_llm" / "config.pbtxt"
    shutil.copytree(repository, tmp_path / "repo", symlinks=True)
    text = config.read_text()
    assert "1000000000" in text
    config.write_text(text.replace("1000000000", "1000"))
    with (
        pytest.raises(AssertionError, match="No available memory for the cache blocks"),
        launched(tmp_path / "repo", tmp_path, exit_code=None),
    ):
        pass
    last = (tmp_path / "server.log").read_text().splitlines()[-1]
    assert re.search("error: .*vLLM does not start for .*No available memory for the cache", last)
