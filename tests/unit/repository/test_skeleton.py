"""The generator: what it writes parses, what it is given comes out, what is wrong is named."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from trt_tokenizers.engines import tensors
from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.check import check
from trt_tokenizers.repository.generate import GenerateOptions, render, write
from trt_tokenizers.repository.pbtxt import parse_config

ROOT = Path(__file__).parents[3]


@pytest.fixture
def model_dir(bpe_dir: Path, tmp_path: Path) -> Path:
    """A folder that looks like a model; nobody loads its weights here."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in bpe_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    return folder


def make(model_dir: Path, output: Path, **more: object) -> Path:
    write(render(GenerateOptions("transformers", model_dir, **more)), output, force=True)
    return output


def test_what_is_written_is_good(model_dir: Path, tmp_path: Path) -> None:
    repository = make(model_dir, tmp_path / "repo")
    assert check(repository) == []
    assert not [p for p in repository.rglob("*") if p.is_file() and "${" in p.read_text()]
    config = parse_config((repository / "preprocessing" / "config.pbtxt").read_text())
    assert config.parameters["max_seq_len"].string_value == "64"
    assert config.parameters["tokenizer_dir"].string_value == str(model_dir)


def test_a_value_that_breaks_the_file_is_refused(model_dir: Path) -> None:
    with pytest.raises(RepositoryError, match=r"ensemble/config\.pbtxt:4: .* whole number"):
        render(GenerateOptions("transformers", model_dir, values={"triton_max_batch_size": "many"}))


def test_an_unknown_value_is_refused(model_dir: Path) -> None:
    with pytest.raises(RepositoryError, match=r"unknown value 'dtpye' \(did you mean 'dtype'"):
        render(GenerateOptions("transformers", model_dir, values={"dtpye": "x"}))


def test_folders_that_are_no_models(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(RepositoryError, match=r"holds no config\.json"):
        render(GenerateOptions("transformers", tmp_path))
    with pytest.raises(RepositoryError, match=r"tokenizer folder .* does not exist"):
        render(GenerateOptions("transformers", model_dir, tokenizer_dir=tmp_path / "no"))


def test_nothing_of_others_is_overwritten(model_dir: Path, tmp_path: Path) -> None:
    rendered = render(GenerateOptions("transformers", model_dir))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("precious")
    with pytest.raises(RepositoryError, match="was not made by this command"):
        write(rendered, theirs, force=True)
    assert (theirs / "file").read_text() == "precious"
    ours = make(model_dir, tmp_path / "ours")
    with pytest.raises(RepositoryError, match="--force"):
        write(rendered, ours)
    (ours / "mine").write_text("precious")
    write({**rendered, "old/1/file": "x"}, ours, force=True)
    write(rendered, ours, force=True)
    assert not (ours / "old").exists(), "what it made once and makes no more"
    assert (ours / "mine").read_text() == "precious"
    with pytest.raises(RepositoryError, match="ours/mine was not made by this command; move it"):
        write({**rendered, "mine": "x"}, ours, force=True)
    assert (ours / "mine").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "ours", "theirs"]


def test_skeleton_and_backend_name_the_same_tensors(model_dir: Path, tmp_path: Path) -> None:
    """A tensor in one and not in the other would never arrive."""
    repository = make(model_dir, tmp_path / "repo")
    used = {
        node.value
        for file in (
            "backend.py",
            "processing/request.py",
            "processing/preprocess.py",
            "processing/postprocess.py",
        )
        for node in ast.walk(ast.parse((ROOT / "src/trt_tokenizers" / file).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper()
    }
    for name in ("preprocessing", "postprocessing"):
        config = parse_config((repository / name / "config.pbtxt").read_text())
        assert {t.name for t in [*config.input, *config.output]} <= used
    engine = parse_config((repository / "tensorrt_llm" / "config.pbtxt").read_text())
    assert {t.name for t in engine.input} == set(tensors.INPUTS)


def test_outputs_are_those_that_were_asked_for(model_dir: Path, tmp_path: Path) -> None:
    repository = make(model_dir, tmp_path / "repo", outputs=("text_output", "output_ids"))
    config = parse_config((repository / "ensemble" / "config.pbtxt").read_text())
    assert [output.name for output in config.output] == ["text_output", "output_ids"]
    mapped = {v for s in config.ensemble_scheduling.step for v in s.output_map.values()}
    assert {v for v in mapped if not v.startswith("_")} == {"text_output", "output_ids"}
    assert check(repository) == []
    with pytest.raises(
        RepositoryError, match=r"no output 'text_otput' \(did you mean 'text_output'"
    ):
        make(model_dir, tmp_path / "repo", outputs=("text_otput",))
