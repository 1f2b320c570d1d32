"""What `trt-tokenizers serve` decides: engine, repository, ports, and the lines to paste."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness import free_ports
from trt_tokenizers.cli.main import main
from trt_tokenizers.errors import LaunchError
from trt_tokenizers.launcher import first_try
from trt_tokenizers.launcher.command import LaunchOptions
from trt_tokenizers.memory.gpus import Gpu


@pytest.fixture
def model(bpe_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    shutil.copytree(bpe_dir, folder)
    (folder / "config.json").write_text('{"n_positions": 64}')
    return folder


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trt-tokenizers" / "repositories"


def repository(model: Path, engine: str = "transformers", **arguments: object) -> Path:
    return first_try.cached_repository(first_try.generate_options(model, engine, arguments))


def test_a_repository_is_made_once_for_the_same_options(model: Path, cache: Path) -> None:
    made = repository(model)
    assert made.parent == cache
    assert made.name.startswith("tiny-")
    (made / "kept").touch()
    assert repository(model) == made
    assert (made / "kept").exists()


def test_other_options_get_another_repository(model: Path, cache: Path) -> None:
    made = repository(model)
    other = repository(model, dtype="float16")
    assert made != other
    assert "float16" in (other / "tensorrt_llm" / "config.pbtxt").read_text()
    assert set(cache.iterdir()) == {made, other}


@pytest.mark.parametrize(("engine", "key"), [("vllm", "engine_args"), ("llmapi", "llm_args")])
def test_arguments_reach_the_engine(model: Path, engine: str, key: str) -> None:
    options = first_try.generate_options(model, engine, {"dtype": "float32"})
    assert getattr(options, key) == {"dtype": "float32"}
    assert not options.values


def test_the_default_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed in (None, object()):
        for gpus in ([], [Gpu("0")]):
            monkeypatch.setattr(first_try, "find_spec", lambda _, found=installed: found)
            monkeypatch.setattr(first_try, "host_gpus", lambda _, found=gpus: found)
            expected = "vllm" if installed and gpus else "transformers"
            assert first_try.default_engine() == expected


@contextlib.contextmanager
def listening(port: int) -> Iterator[None]:
    with contextlib.closing(socket.create_server(("127.0.0.1", port))):
        yield


def test_taken_ports_move_all_and_are_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    (first,) = free_ports(1)
    options = LaunchOptions(tmp_path, http_port=first, grpc_port=first + 1, metrics_port=first + 2)
    with listening(first + 1):
        moved, openai = first_try.with_free_ports(options, None, said.append)
    step = moved.http_port - first
    assert step > 0
    assert step % 10 == 0
    assert list(moved.ports.values()) == [first + step, first + step + 1, first + step + 2]
    assert openai == 9000 + step
    ports = ", ".join(map(str, (*moved.ports.values(), openai)))
    assert said == [f"usual ports are taken; the ports are {ports}"]


def test_a_chosen_port_stays(tmp_path: Path) -> None:
    http, grpc, metrics, chosen = free_ports(4)
    options = LaunchOptions(tmp_path, http_port=http, grpc_port=grpc, metrics_port=metrics)
    assert first_try.with_free_ports(options, chosen, pytest.fail) == (options, chosen)
    taken = pytest.raises(LaunchError, match=f"^--port {chosen} is in use")
    with listening(chosen), taken:
        first_try.with_free_ports(options, chosen, pytest.fail)


def test_a_host_that_cannot_be_bound_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"on --host 203\.0\.113\.9: "):
        first_try.with_free_ports(LaunchOptions(tmp_path, host="203.0.113.9"), None, pytest.fail)


def test_the_lines_to_paste_are_whole_commands() -> None:
    lines = first_try.to_paste("http://127.0.0.1:9000/v1", "http://127.0.0.1:8000")
    curl, python, chat = [shlex.split(line, comments=True) for line in lines if "127" in line][1:]
    assert curl[0] == "curl"
    assert "http://127.0.0.1:9000/v1/chat/completions" in curl
    assert json.loads(curl[-1])["messages"][0]["role"] == "user"
    compile(python[-1], "python -c", "exec")
    assert chat == ["trt-tokenizers", "chat", "--url", "http://127.0.0.1:8000"]
    assert any("http://127.0.0.1:9000/ " in line for line in lines)


def test_a_mistake_is_one_error_and_makes_nothing(
    model: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a tritonserver that would be the first mistake.
    monkeypatch.setenv("TRITONSERVER", shutil.which("true") or "")
    done = CliRunner().invoke(main, ["serve", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: {tmp_path / 'none'}: no such folder; give a Hugging Face model folder, or demo"
    )
    done = CliRunner().invoke(main, ["serve", "--engine", "transformer", str(model)])
    assert done.exit_code == 1
    assert "'transformers'" in done.stderr
    done = CliRunner().invoke(main, ["serve", "--engine", "tensorrtllm", str(model)])
    assert done.exit_code == 1
    assert "trt-tokenizers generate --engine tensorrtllm" in done.stderr
    assert not cache.exists()
