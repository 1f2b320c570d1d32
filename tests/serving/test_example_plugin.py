"""examples/codepoint_tokenizer, installed like a third-party package, in a real Triton."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Server, generate_replay, launched
from texts import HARD_TEXTS

pytestmark = pytest.mark.triton
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed() -> Iterator[None]:
    """Install it in this environment, the only one that Triton's Python models see."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    example = str(ROOT / "examples" / "codepoint_tokenizer")
    subprocess.run([*pip, "install", "--no-deps", "--no-build-isolation", example], check=True)
    try:
        yield
    finally:
        subprocess.run([*pip, "uninstall", "--yes", "codepoint-tokenizer"], check=True)


@pytest.fixture(scope="module")
def plugged(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("plugin")
    # The type needs no files; those of another tokenizer would bring other EOS ids.
    bare = folder / "tokenizer"
    bare.mkdir()
    repository = generate_replay(
        folder / "repo", bare, "--tokenizer-type", "codepoint", "--template", "chatml"
    )
    with launched(repository, folder) as server:
        yield server


def test_it_serves_and_streams(plugged: Server) -> None:
    bodies = [{"text_input": text, "max_tokens": 200, "stream": True} for text in HARD_TEXTS]
    for text, got in zip(HARD_TEXTS, plugged.streams(bodies), strict=True):
        joined = "".join(o["text_output"].ravel()[0].decode() for o in got)
        assert joined == text


def test_it_is_listed_with_its_package_and_version(installed: None) -> None:
    program = str(Path(sys.executable).with_name("trt-tokenizers"))
    done = subprocess.run([program, "tokenizers", "--json"], check=True, stdout=subprocess.PIPE)
    (found,) = [p for p in json.loads(done.stdout) if p["name"] == "codepoint"]
    assert (found["package"], found["version"], found["error"]) == (
        "codepoint-tokenizer",
        "1.0",
        "",
    )


def test_it_tokenizes_on_the_command_line(installed: None, bpe_dir: Path) -> None:
    program = str(Path(sys.executable).with_name("trt-tokenizers"))
    command = [program, "tokenize", "--tokenizer-dir", str(bpe_dir), "--tokenizer-type"]
    done = subprocess.run(
        [*command, "codepoint", "--json", "aé"], check=True, stdout=subprocess.PIPE
    )
    assert [t["id"] for t in json.loads(done.stdout)["tokens"]] == [2, 97, 233]
