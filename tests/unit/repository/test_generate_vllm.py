"""generate --engine vllm: its arguments, on a machine with or without vLLM."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trt_tokenizers.cli.main import main
from trt_tokenizers.engines.vllm import compat
from trt_tokenizers.repository.pbtxt import parse_config


def run(*options: object) -> Result:
    return CliRunner().invoke(main, ["generate", *map(str, options)])


@pytest.fixture
def model(bpe_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in bpe_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    return folder


def parameters(repository: Path) -> dict[str, str]:
    config = parse_config((repository / "tensorrt_llm" / "config.pbtxt").read_text())
    return {name: value.string_value for name, value in config.parameters.items()}


def test_engine_arguments_become_a_parameter(model: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    given = ("tensor_parallel_size=2", "dtype=bfloat16", "compilation_config.mode=3")
    options = [f"--engine-arg={pair}" for pair in (*given, "max_model_len=1024")]
    result = run("--engine", "vllm", "--model", model, "--output", repository, *options)
    assert result.exit_code == 0, result.output
    found = parameters(repository)
    assert json.loads(found["engine_args"]) == {
        "tensor_parallel_size": 2, "dtype": "bfloat16", "compilation_config": {"mode": 3}
    }  # fmt: skip
    assert found["max_seq_len"] == "1024"
    assert found["engine"] == "vllm"
    file = tmp_path / "deployment.json"
    arguments = {**json.loads(found["engine_args"]), "max_model_len": 1024}
    options = {"engine": "vllm", "model": str(model), "output": str(repository)}
    file.write_text(json.dumps({**options, "engine-arg": arguments}))
    assert run("--config", file, "--force").exit_code == 0
    assert parameters(repository) == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine-arg=model=x",), "engine_args contains 'model', which is set by model_dir"),
        (("--set", "loras=fr=/tmp"), "loras needs enable_lora"),
        (("--engine", "transformers", "--engine-arg=a=1"), "--engine-arg is for the engine vllm"),
        (("--model", "org/name"), "set max_seq_len, and --tokenizer-dir"),
    ],
)
def test_vllm_refuses(model: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = run(
        "--engine", "vllm", "--model", model, "--output", tmp_path / "repo",
        "--tokenizer-dir", model, *options,
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert message in result.output
    assert not (tmp_path / "repo").exists()


def test_names_are_compared_with_the_installed_vllm(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its source: importing vLLM takes seconds."""
    package = tmp_path / "vllm"
    (package / "engine").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not imported')")
    (package / "engine" / "arg_utils.py").write_text(
        "class EngineArgs:\n    tensor_parallel_size: int = 1\n    dtype: str = 'auto'\n"
        "class AsyncEngineArgs(EngineArgs):\n    enable_log_requests: bool = False\n"
        "class Other:\n    tensor_paralel_size: int = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    expected = {"tensor_parallel_size", "dtype", "enable_log_requests"}
    assert compat.argument_names() == expected
    result = run(
        "--engine", "vllm", "--model", model, "--output", tmp_path / "repo",
        "--engine-arg=tensor_paralel_size=2",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "did you mean 'tensor_parallel_size'?" in result.output
