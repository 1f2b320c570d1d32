"""The architecture, held: arrows between rooms go one way, Triton is met in one file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "trt_tokenizers"
FILES = sorted(PACKAGE.rglob("*.py"))

#: Room -> level; a room imports from lower levels, or from its own package folder.
LEVELS = {
    "slots": -1, "smalltexts": -1,
    "": 0, "errors": 0, "drain": 0,
    "settings": 1, "stopline": 1, "metrics": 1, "logs": 1, "ranks": 1, "process": 1,
    "pbtxt": 2, "upstream": 2, "replacing": 2, "fill": 3, "layouts": 3, "wiring": 4,
    "skeleton": 4, "cpp": 5, "catalogue": 7, "adopt": 9, "cli_generate": 10, "cli_repository": 10,
    "model_sizes": 2, "memory": 3, "memory_picture": 4, "cli_plan": 10,
    "plugins": 2, "limits": 2, "streams": 2, "contexts": 2, "detokenize": 2,
    "tokenizers": 3, "templates": 3,
    "words": 4, "sequences": 4, "textrequest": 4,
    "prompts": 5, "inputs": 5, "postprocess": 5, "engines": 5,
    "preprocess": 6, "tokenization": 6,
    "backend": 7,
    # The operator's island meets the data path only where it checks settings.
    "guard": 1, "httpqueues": 1, "gpus": 1, "engine_folder": 1,
    "server": 1, "readiness": 1, "announce": 1, "client": 1, "mpi": 1, "lock": 1, "protocol": 1,
    "watch": 2, "lifecycle": 2, "launch": 2,
    "agent": 3, "preflight": 3,
    "supervise": 4,
    "repository": 7,
    "problems": 2, "check_wiring": 3, "plan": 4, "check": 8,
    "cli_launch": 9,
    "cli_tokenize": 10,
    "cli": 11,
}  # fmt: skip
OPERATOR = {
    "server", "watch", "guard", "httpqueues", "lifecycle", "client", "launch", "supervise",
    "drain", "slots", "smalltexts", "agent", "protocol", "mpi", "preflight", "lock", "announce",
    "readiness",
}  # fmt: skip


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            found += [f"{module}.{a.name}" if module == "trt_tokenizers" else module
                      for a in node.names]  # fmt: skip
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_go_one_way(path: Path) -> None:
    here = room(path)
    assert here in LEVELS, f"{here} is a new room: give it a level"
    for module in imported(path):
        if not module.startswith("trt_tokenizers."):
            continue
        there = module.split(".")[1]
        assert there == here or LEVELS[there] < LEVELS[here], f"{path}: {here} -> {there}"
        if here in OPERATOR:
            assert there in OPERATOR | {"errors", "settings", "ranks"}, f"{path}: {here} -> {there}"


def test_triton_is_met_in_one_file() -> None:
    users = [p.name for p in FILES if "triton_python_backend_utils" in imported(p)]
    assert users == ["backend.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 330, "a file that grows past 300 is two rooms"


def test_models_are_one_import() -> None:
    models = sorted((ROOT / "model_repo_skeleton").glob("*/1/model.py"))
    assert [m.parts[-3] for m in models] == ["postprocessing", "preprocessing", "tensorrt_llm"]
    for model in models:
        (node,) = ast.parse(model.read_text()).body
        assert isinstance(node, ast.ImportFrom)
        assert node.module == "trt_tokenizers.backend"


@pytest.mark.parametrize("name", ["torch", "transformers", "pytriton", "tritonclient", "google"])
def test_heavy_modules_are_imported_late(name: str) -> None:
    """Nothing at the top of a file that light processes import."""
    own = {
        "engines/_sampling.py",
        "engines/_bias.py",
        "engines/_parallel.py",
    }  # imported by a running engine only
    for path in FILES:
        if str(path.relative_to(PACKAGE)) in own:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = (
                    [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
                )
                assert not any(n and n.split(".")[0] == name for n in names), path
