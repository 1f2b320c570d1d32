"""Runs Dockerfile.triton's install steps in an environment like that of its image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Packages of the default TAG's image that this package needs, in the versions that TensorRT-LLM
#: 1.1 and its transformers pin. The image lacks Triton's client library.
IMAGE = (
    "click==8.1.8", "Jinja2==3.1.6", "numpy==1.26.4", "sentencepiece==0.2.0", "tokenizers==0.22.0",
)  # fmt: skip
#: Compiling the packages takes longer than installing them.
NO_COMPILE = {**os.environ, "PIP_NO_COMPILE": "1"}


def steps() -> list[str]:
    """The shell commands of the RUN lines, without BuildKit's mounts."""
    text = (ROOT / "Dockerfile.triton").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^RUN (.*)", text, re.MULTILINE)
    return [re.sub(r"--mount=\S+", "", line).strip() for line in lines]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of the image's Python, with its packages."""
    folder = tmp_path_factory.mktemp("image")
    found = ["python3.12", *map(str, Path.home().glob(".pyenv/versions/3.12.*/bin/python3.12"))]
    makes = ([python, "-m", "venv", str(folder)] for python in found if shutil.which(python))
    if not any(subprocess.run(m, capture_output=True, check=False).returncode == 0 for m in makes):
        pytest.skip("the image's Python 3.12 is not on this machine (PATH, pyenv)")
    install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *IMAGE]
    done = subprocess.run(install, capture_output=True, text=True, check=False, env=NO_COMPILE)
    if done.returncode:
        pytest.skip(f"the image's packages cannot be installed: {done.stderr.splitlines()[-1]}")
    return folder


def versions(image: Path) -> dict[str, str]:
    command = [str(image / "bin/python"), "-m", "pip", "list", "--format=freeze"]
    lines = subprocess.check_output(command, text=True).splitlines()
    return dict(line.split("==") for line in lines)


def test_the_install_steps(image: Path, tmp_path: Path) -> None:
    wheel, system, install = steps()
    assert system.startswith("apt-get update"), "not run here, because it needs the image's Ubuntu"
    environment = {**NO_COMPILE, "PATH": f"{image / 'bin'}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    before = versions(image)
    assert before.items() >= dict(line.split("==") for line in IMAGE).items()
    for step in (wheel, install):
        command = step.replace("/wheels", str(tmp_path)).replace("/tmp/image.txt", f"{tmp_path}/i")
        subprocess.run(["sh", "-ec", command], cwd=ROOT, env=environment, check=True)
    after = versions(image)
    assert after.items() >= before.items(), "the image's own packages are unchanged"
    assert "trt-tokenizers" in after
    assert not {"torch", "transformers"} & set(after), "the image has its own"
    for command in ("launch_server --help", "trt-tokenizers settings"):
        program, *arguments = command.split()
        run = [str(image / "bin" / program), *arguments]
        subprocess.run(run, env=environment, cwd=tmp_path, check=True, capture_output=True)
