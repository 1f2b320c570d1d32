"""The architecture: imports between packages go one way, and one file imports Triton."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "trt_tokenizers"
FILES = sorted(PACKAGE.rglob("*.py"))

#: Package or file -> what it may import, besides itself, errors and settings.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "settings": set(),
    "logs": set(),
    "plugins": set(),
    "client": set(),
    "hf_config": set(),
    "mpi_environment": set(),
    "streams": set(),
    "launcher": {"memory", "mpi_environment", "repository", "streams"},
    "templates": set(),
    "memory": {"hf_config"},
    "tokenizers": {"hf_config", "plugins"},
    "detokenize": {"tokenizers"},
    "openai": {"", "plugins", "streams"},
    "processing": {"streams", "templates", "tokenizers"},
    "engines": {"hf_config", "memory", "mpi_environment", "streams"},
    "backend": {"engines", "logs", "plugins", "processing", "streams"},
    "repository": {
        "engines", "hf_config", "memory", "plugins", "processing", "streams", "templates",
        "tokenizers",
    },
    "pipeline": {"mpi_environment", "processing", "repository"},
    "cli": {
        "", "client", "engines", "hf_config", "launcher", "logs", "memory", "mpi_environment",
        "openai", "pipeline", "plugins", "processing", "repository", "streams", "tokenizers",
    },
    # __init__ imports the public names late.
    "": {"client", "engines", "pipeline", "streams", "templates", "tokenizers"},
}  # fmt: skip


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imported(path: Path) -> list[str]:
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            found += [f"{module}.{a.name}" if module == "trt_tokenizers" else module
                      for a in node.names]  # fmt: skip
    return found


def test_imports_follow_the_table() -> None:
    wrong = []
    for path in FILES:
        here = room(path)
        assert here in ROOMS, f"{here} is new: add a line"
        for module in imported(path):
            if module == "trt_tokenizers" or module.startswith("trt_tokenizers."):
                there = module.removeprefix("trt_tokenizers").removeprefix(".").split(".")[0]
                if there not in ROOMS[here] | {here, "errors", "settings"}:
                    wrong.append(f"{path}: {here} -> {there}")
    assert not wrong


def test_the_table_has_no_cycle() -> None:
    order: list[str] = []
    left = {room: needs - {""} for room, needs in ROOMS.items() if room}
    while left:
        free = [room for room, needs in left.items() if needs <= set(order)]
        assert free, f"a cycle among {sorted(left)}"
        order += free
        for room in free:
            del left[room]


def test_the_top_is_small() -> None:
    top = [p for p in PACKAGE.iterdir() if p.name not in ("__pycache__", "py.typed")]
    assert len([p for p in top if p.is_dir()]) <= 10
    assert len([p for p in top if p.is_file()]) <= 11


def test_one_file_imports_triton() -> None:
    users = [p.name for p in FILES if "triton_python_backend_utils" in imported(p)]
    assert users == ["backend.py"]


def test_files_stay_small() -> None:
    long = [str(path) for path in FILES if len(path.read_text().splitlines()) > 330]
    assert not long, "split them"


def test_models_are_one_import() -> None:
    models = sorted((ROOT / "model_repo_skeleton").glob("*/1/model.py"))
    assert [m.parts[-3] for m in models] == ["postprocessing", "preprocessing", "tensorrt_llm"]
    for model in models:
        (node,) = ast.parse(model.read_text()).body
        assert isinstance(node, ast.ImportFrom)
        assert node.module == "trt_tokenizers.backend"


def test_heavy_modules_are_imported_late() -> None:
    """No file imports them at its top, so that light processes start fast."""
    heavy = {"torch", "transformers", "pytriton", "tritonclient", "google"}
    own = {"sampling.py", "scheduler.py", "parallel.py"}  # only a running engine imports them
    for path in FILES:
        if path.parent.name == "transformers" and path.name in own:
            continue
        for node in parsed(path).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = (
                    [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
                )
                assert not heavy & {n.split(".")[0] for n in names if n}, path
