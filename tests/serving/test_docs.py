"""Every command and program of README.md and docs/, as written, against one server.

What a page starts (`launch_server`, `trt-tokenizers serve`, `openai`) is checked, not started: the
server of this module answers instead. Blocks that need a GPU, a cluster or NVIDIA's image do not
run; tests/unit/test_documentation.py counts them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from applicable import needs_engine
from documentation import PAGES, ROOT, RUN, Block, blocks
from harness import free_ports, generate, launched
from upstream import upstream_repository

pytestmark = [pytest.mark.triton, pytest.mark.model]
BIN = Path(sys.executable).parent
#: Scripts of the checkout that take minutes and are run by people and CI.
LONG = ("build", "check", "clients", "compat", "demo", "test")
#: Program -> what runs in its place: everything else is the real thing.
STAND_INS = {
    "launch_server": f'exec {BIN}/launch_server --dry-run "$@"',
    "trt-tokenizers": f"""
case "$1" in
  launch) shift; exec {BIN}/launch_server --dry-run "$@";;
  serve|openai) exec {BIN}/python -c '
import sys
from trt_tokenizers.cli.main import main
name, *arguments = sys.argv[1:]
main.commands[name].make_context(name, arguments)' "$@";;
  chat) shift; exec {BIN}/trt-tokenizers chat --url "$TRITON" "$@";;
  *) exec {BIN}/trt-tokenizers "$@";;
esac""",
    # Plugins of a page are installed for this page; everything else is only resolved.
    "pip": f"""
export PIP_NO_DEPS=1 PIP_NO_BUILD_ISOLATION=0 PIP_DISABLE_PIP_VERSION_CHECK=1
case "$2" in
  ./*) exec {BIN}/python -m pip "$@" --target "$SITE";;
  *) exec {BIN}/python -m pip "$@" --dry-run;;
esac""",
}


@dataclass
class Pages:
    """Runs the blocks of a page in a folder of its own.

    Attributes:
        addresses: an address of the pages -> the server's.
        model_repo: the repository that the server serves.
    """

    addresses: dict[str, str]
    model: Path
    model_repo: Path
    programs: Path
    wheel: Path

    def run(self, page: Path, folder: Path) -> None:
        found = [block for block in blocks(page) if not block.needs]
        for path in ROOT.iterdir():
            if path.name in ("scripts", "model_repo_skeleton"):  # commands write there
                shutil.copytree(path, folder / path.name)
            elif path.name != "dist" and not path.name.startswith("."):
                (folder / path.name).symlink_to(path)
        for name in LONG:
            assert os.access(ROOT / "scripts" / name, os.X_OK)
            (folder / "scripts" / name).write_text("#!/bin/sh\n")
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "activate").touch()
        if not any("demo-model model" in block.text for block in found):
            (folder / "model").symlink_to(self.model)
        (folder / "dist").mkdir()
        (folder / "dist" / self.wheel.name).symlink_to(self.wheel)
        engine = folder / "engine"
        engine.mkdir()
        (engine / "config.json").write_text(json.dumps(ENGINE))
        (engine / "rank0.engine").write_bytes(b"")
        if page.stem == "migration":  # its readers have NVIDIA's
            upstream_repository(folder / "model_repo", "0.17", self.model)
        elif not any("output model_repo" in block.text for block in found):
            shutil.copytree(self.model_repo, folder / "model_repo", symlinks=True)
        site = folder / "site-packages"
        environment = {
            **os.environ,
            "PATH": f"{self.programs}:{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": f"{folder}:{site}",
            "SITE": str(site),
            "TRITON": f"http://{self.addresses['localhost:8000']}",
        }
        programs = {}
        for block in found:
            where = f"{block.page}:{block.line}"
            text = self._with_addresses(block.text)
            if block.file:
                path = folder / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            if block.language == "python":
                programs[where] = text
            for command in Block(block.page, block.line, block.language, text).commands:
                printed = _call(where, ["bash", "-ec", command.text], folder, environment)
                assert command.shows(printed), f"{where}: {command.text}prints\n{printed}"
        if programs:  # in one process, which loads the libraries once
            (folder / "programs.json").write_text(json.dumps(programs))
            _call(str(page), [sys.executable, "-c", RUN_PROGRAMS], folder, environment)

    def _with_addresses(self, text: str) -> str:
        for written, real in self.addresses.items():
            text = text.replace(written, real)
        return text


def _call(where: str, argv: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, timeout=300, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{where}: {argv[-1]}\n{done.stdout}"
    return done.stdout


RUN_PROGRAMS = """
import json
for where, text in json.load(open("programs.json")).items():
    exec(compile(text, where, "exec"), {"__name__": "__main__"})
"""
#: Stands for a built engine.
ENGINE = {
    "version": "0.17.0",
    "pretrained_config": {
        "architecture": "LlamaForCausalLM", "num_hidden_layers": 30, "hidden_size": 576,
        "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
        "vocab_size": 49152, "dtype": "bfloat16",
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
    },
    "build_config": {"max_batch_size": 128, "max_seq_len": 2048, "max_num_tokens": 8192},
}  # fmt: skip


@pytest.fixture(scope="module")
def pages(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    needs_engine()
    folder = tmp_path_factory.mktemp("docs")
    programs = folder / "bin"
    programs.mkdir()
    for name, text in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    (port,) = free_ports(1)
    # A template with tools, and answers that do not take long.
    more = ("--template", "qwen", "--set", "default_max_tokens=32")
    repository = generate(
        folder / "model_repo", "--engine", "transformers", "--model", str(smollm2), *more
    )
    with launched(repository, folder, "--openai-port", str(port)) as server:
        addresses = {
            "localhost:8000": server.http.removeprefix("http://"),
            "localhost:8001": server.grpc,
            "localhost:8002/metrics": server.metrics.removeprefix("http://"),
            "localhost:9000": f"127.0.0.1:{port}",
        }
        yield Pages(addresses, smollm2, repository, programs, wheel)


@pytest.fixture(scope="module")
def ran(
    pages: Pages, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Path, Future[None]]]:
    """The runs of the chosen pages, two at a time; the longest one is first."""
    chosen = [item.callspec.params["page"] for item in request.session.items
              if item.path == request.path]  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        yield {
            page: pool.submit(pages.run, page, tmp_path_factory.mktemp(page.stem))
            for page in sorted(chosen, key=lambda page: page.stem != "python")
        }


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.language in RUN for block in blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_commands_of_a_page(ran: dict[Path, Future[None]], page: Path) -> None:
    ran[page].result()
