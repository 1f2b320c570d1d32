"""Ordinary mistakes give one line and an exit code, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from trt_tokenizers.cli.main import main

RUN = [sys.executable, "-c", "from trt_tokenizers.cli.main import main; main()"]


@pytest.fixture
def model(bpe_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(bpe_dir, folder)
    (folder / "config.json").write_text('{"n_positions": 64}')
    return folder


def one_error(*arguments: object, code: int) -> str:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_an_output_folder_that_cannot_be_made(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file" / "repo", Path("/proc/repo")):
        line = one_error("generate", "--model", model, "--output", output, code=1)
        assert line.startswith(f"{output} cannot be written: ")
    output = tmp_path / "file"
    line = one_error("generate", "--model", model, "--output", output, code=1)
    assert line == f"{output} is not a folder; choose another name"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.yaml", b"\xff", "is not UTF-8 (byte 0)"),
        ("c.json", b"\xff", "is not UTF-8 (byte 0)"),
        ("c.json", b'{"a":' + b"[" * 100_000, "it is nested too deep"),
        ("c.yaml", b"a: " + b"[" * 5000, "it is nested too deep"),
        ("c.json", b"[]", "is not a mapping"),
        ("c.json", b'{"set": [1, 2]}', "set must be one value"),
    ],
)
def test_a_deployment_file_that_cannot_be_read(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    line = one_error("generate", "--config", file, code=2)
    assert line.startswith(f"{file}")
    assert message in line


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff", "is not UTF-8 (byte 0)"), (b"[" * 100_000, "it is nested too deep"),
     (b"[]", "JSON object")],
)  # fmt: skip
def test_a_model_whose_config_cannot_be_read(content: bytes, message: str, model: Path) -> None:
    (model / "config.json").write_bytes(content)
    for command in (("plan", model, "--gpu-memory", 1),
                    ("generate", "--model", model, "--output", model / "r")):  # fmt: skip
        assert message in one_error(*command, code=1)


def test_a_repository_whose_files_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "repo" / "ensemble"
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_bytes(b"\xff")
    line = one_error("adopt", tmp_path / "repo", code=1)
    assert line == f"{folder}/config.pbtxt:1: is not UTF-8 (byte 0); restore the file"
    checked = CliRunner().invoke(main, ["check", str(tmp_path / "repo")])
    assert checked.exit_code == 1
    assert f"{folder}/config.pbtxt:1: is not UTF-8 (byte 0); restore" in checked.stdout


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    picture = tmp_path / "no" / "p.svg"
    config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 2}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    header = b'{"t": {"dtype": "BF16", "shape": [8]}}'
    file = struct.pack("<Q", len(header)) + header
    (tmp_path / "model.safetensors").write_bytes(file)
    line = one_error("plan", tmp_path, "--gpu-memory", 80, "--picture", picture, code=1)
    assert line == f"{picture}: No such file or directory; correct the path or its permissions"


@pytest.mark.parametrize(
    "arguments",
    [("generate", "--model", "M", "--output", "R"), ("launch", "--model-repo", "R"),
     ("fill-template", "f", "a:b"), ("adopt", "R"), ("check", "R")],
)  # fmt: skip
def test_a_deleted_working_directory(arguments: tuple[str, ...], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    started = f"import os; os.rmdir({str(gone)!r}); {RUN[-1]}"
    done = subprocess.run([*RUN[:-1], started, *arguments], cwd=gone, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    if arguments[0] in ("generate", "launch"):
        assert done.stderr == (
            "error: the working directory does not exist any more; change to another one\n"
        )


def test_no_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    options = ("launch", "--model-repo", tmp_path, "--tritonserver", "~x/tritonserver")
    assert one_error(*options, code=1) == "the home directory is unknown; set HOME to a folder"


def test_a_file_that_is_not_safetensors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"hidden_size": 8, "num_hidden_layers": 1, '
        '"num_attention_heads": 2, "num_key_value_heads": 2}'
    )
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\xff" * 9)
    line = one_error("plan", tmp_path, "--gpu-memory", 8, code=1)
    assert line == f"{file} is not a safetensors file; download it again"


@pytest.mark.parametrize("url", ["http://[", "http://a:b", "http://a:99999", "a", "ftp://a"])
def test_an_address_that_is_none(url: str) -> None:
    done = CliRunner().invoke(main, ["chat", "--url", url], input="Hello\n")
    assert (done.exit_code, done.stderr) == (
        2,
        f"error: {url!r} is not a server URL; use for example http://127.0.0.1:8000\n",
    )


def test_an_argument_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    assert "has no placeholder 'a\\udcff'" in one_error(
        "fill-template", tmp_path / "f", "a\udcff:b", code=1
    )


def test_an_unexpected_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero\nsecond line")

    monkeypatch.setattr("trt_tokenizers.repository.check.check", broken)
    assert one_error("check", tmp_path, code=1) == (
        "unexpected ZeroDivisionError: division by zero; run it again with --debug, and report "
        "the traceback"
    )
    for arguments in (["check", "--debug", str(tmp_path)], ["--debug", "check", str(tmp_path)]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 1
        assert "Traceback (most recent call last)" in done.stderr
        assert "in broken" in done.stderr


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, os.strerror(28), "x")

    monkeypatch.setattr(Path, "write_text", full)
    line = one_error("generate", "--model", model, "--output", tmp_path / "r", code=1)
    assert line.startswith(f"{tmp_path / 'r'} cannot be written: No space left on device (x); ")
