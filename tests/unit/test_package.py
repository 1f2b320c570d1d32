"""The wheel works without a checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_wheel_alone_generates_a_repository(tmp_path: Path, bpe_dir: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    assert (installed / "trt_tokenizers" / "py.typed").is_file()
    assert (installed / "trt_tokenizers" / "repository" / "schemas" / "1.2.json").is_file()
    assert (installed / "trt_tokenizers" / "openai" / "page" / "main.js").is_file()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"max_position_embeddings": 64}')
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import trt_tokenizers; assert trt_tokenizers.__file__.startswith(sys.argv[1])\n"
        "from trt_tokenizers.cli.main import main\n"
        "main(['generate', '--engine', 'x:Y', '--model', sys.argv[2],\n"
        "      '--tokenizer-dir', sys.argv[3], '--output', sys.argv[4]])\n"
    )
    output = tmp_path / "repo"
    arguments = [str(installed), str(model), str(bpe_dir), str(output)]
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, check=True)
    assert (output / "ensemble" / "1").is_dir()
    models = {path.parent.parent.name for path in output.glob("*/1/model.py")}
    assert models == {"preprocessing", "tensorrt_llm", "postprocessing"}
