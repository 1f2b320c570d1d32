"""The command openai: real processes without a Triton behind them, and wrong options."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness import free_ports
from launching import until
from trt_tokenizers.cli.main import main


@contextlib.contextmanager
def running(*options: str, **env: str) -> Iterator[int]:
    """Run the command until the block ends, when it must exit with 0; its port."""
    (port,) = free_ports(1)
    program = str(Path(sys.executable).with_name("trt-tokenizers"))
    process = subprocess.Popen(
        [program, "openai", "--triton", "127.0.0.1:1", "--port", str(port), *options],
        env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield port
    finally:
        process.terminate()
        assert process.wait(20) == 0


def ask(url: str, path: str, key: str = "", context: ssl.SSLContext | None = None) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def models(url: str, key: str) -> list[str]:
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return [card["id"] for card in json.load(response)["data"]]


def check_keys(url: str, context: ssl.SSLContext | None = None) -> None:
    until(lambda: ask(url, "/health/live", context=context) == 200)
    assert ask(url, "/v1/models", context=context) == 401
    assert ask(url, "/v1/models", "third", context) == 401
    assert [ask(url, "/v1/models", key, context) for key in ("first", "second")] == [200, 200]
    assert ask(url, "/health/ready", context=context) == 503


def test_keys_of_a_file_and_options_of_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("first\n\n  second \n")
    names = {"TRT_TOKENIZERS_OPENAI_SERVED_MODEL_NAME": "big small"}
    with running("--api-key-file", str(file), **names) as port:
        check_keys(f"http://127.0.0.1:{port}")
        assert models(f"http://127.0.0.1:{port}", "first") == ["big", "small"]


def test_keys_of_the_environment_and_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=False, capture_output=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    context = ssl.create_default_context(cafile=str(certificate))
    options = ("--certificate", str(certificate), "--key", str(key))
    with running(*options, TRT_TOKENIZERS_API_KEYS="first,second") as port:
        check_keys(f"https://127.0.0.1:{port}", context)
        assert ask(f"http://127.0.0.1:{port}", "/health/live") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--key", __file__), "--certificate and --key are only of use together"),
        (("--tool-parser", "hermse"), "hermes"),
        (("--reasoning-parser", "nothing"), "reasoning parser"),
        (("--api-key-file", "/nowhere"), "does not exist"),
    ],
)
def test_wrong_options(options: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(main, ["openai", *options])
    assert result.exit_code == 2
    assert message in result.output


def test_an_empty_file_of_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n")
    result = CliRunner().invoke(main, ["openai", "--api-key-file", str(tmp_path / "keys")])
    assert result.exit_code == 2
    assert "holds no key" in result.output
