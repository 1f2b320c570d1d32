"""The generator: what it writes parses, what it is given comes out, what is wrong is named."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_tokenizers.check import check
from trt_tokenizers.engines import tensors
from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository import (
    Deployment,
    fill,
    fill_template,
    parse_config,
    render,
    write,
)

ROOT = Path(__file__).parents[2]


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
    write(render(Deployment("transformers", model_dir, **more)), output, force=True)
    return output


def test_what_is_written_is_good(model_dir: Path, tmp_path: Path) -> None:
    repository = make(model_dir, tmp_path / "repo")
    assert check(repository) == []
    assert not [p for p in repository.rglob("*") if p.is_file() and "${" in p.read_text()]
    config = parse_config((repository / "preprocessing" / "config.pbtxt").read_text())
    assert config.parameters["max_seq_len"].string_value == "64"
    assert config.parameters["tokenizer_dir"].string_value == str(model_dir)


@given(value=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_value_comes_back_exactly(value: str) -> None:
    text = 'parameters { key: "a" value: { string_value: "${a}" } }'
    assert parse_config(fill(text, {"a": value}, "x")).parameters["a"].string_value == value


def test_a_value_that_breaks_the_file_is_refused(model_dir: Path) -> None:
    with pytest.raises(RepositoryError, match=r"ensemble/config\.pbtxt: .* 4:"):
        render(Deployment("transformers", model_dir, values={"triton_max_batch_size": "many"}))


def test_an_unknown_value_is_refused(model_dir: Path) -> None:
    with pytest.raises(RepositoryError, match=r"unknown value 'dtpye' \(did you mean 'dtype'"):
        render(Deployment("transformers", model_dir, values={"dtpye": "x"}))


def test_folders_that_are_no_models(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(RepositoryError, match=r"holds no config\.json"):
        render(Deployment("transformers", tmp_path))
    with pytest.raises(RepositoryError, match=r"tokenizer folder .* does not exist"):
        render(Deployment("transformers", model_dir, tokenizer_dir=tmp_path / "no"))


def test_nothing_of_others_is_overwritten(model_dir: Path, tmp_path: Path) -> None:
    rendered = render(Deployment("transformers", model_dir))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("precious")
    with pytest.raises(RepositoryError, match="was not made by this command"):
        write(rendered, theirs, force=True)
    assert (theirs / "file").read_text() == "precious"
    ours = make(model_dir, tmp_path / "ours")
    with pytest.raises(RepositoryError, match="--force"):
        write(rendered, ours)
    (ours / "stale").write_text("")
    write(rendered, ours, force=True)
    assert not (ours / "stale").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "ours", "theirs"]


def mutate(repository: Path, model: str, old: str, new: str) -> Path:
    path = repository / model / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("model", "old", "new", "message"),
    [
        ("ensemble", 'value: "text_input"', 'value: "text_inpt"', "'text_inpt' comes from nowhere"),
        ("ensemble", 'key: "QUERY"', 'key: "QUERRY"', "'preprocessing' has no input 'QUERRY'"),
        ("ensemble", 'key: "OUTPUT"', 'key: "OUTPT"', "'postprocessing' has no output 'OUTPT'"),
        ("ensemble", 'model_name: "postprocessing"', 'model_name: "post"', "is no model"),
        ("ensemble", 'input_map { key: "TOKENS_BATCH" value: "_TOKENS_BATCH" }', "",
         "'postprocessing' needs the input 'TOKENS_BATCH'"),
        ("ensemble", "TYPE_STRING", "TYPE_INT32", "another data_type"),
        ("ensemble", "max_batch_size: 64", "max_batch_size: ${x}", "was never filled"),
        ("preprocessing", "max_batch_size: 64", "max_batch_size: x", "not a Triton model config"),
        ("preprocessing", 'key: "template"', 'key: "tempalte"', "did you mean 'template'"),
        ("preprocessing", 'string_value: "auto"', 'string_value: "otto"', "unknown tokenizer type"),
        ("postprocessing", "count: 1", "count: 2", "several instances"),
        ("postprocessing", "kind: KIND_CPU", "kind: KIND_GPU gpus: [0, 1]", "several instances"),
        ("postprocessing", "instance_group [", "dynamic_batching {}\ninstance_group [",
         "lets chunks overtake each other"),
        ("tensorrt_llm", 'string_value: "transformers"', 'string_value: "transfromers"',
         "did you mean 'transformers'"),
    ],
)  # fmt: skip
def test_one_thing_wrong_is_named(
    model_dir: Path, tmp_path: Path, model: str, old: str, new: str, message: str
) -> None:
    repository = make(model_dir, tmp_path / "repo")
    path = mutate(repository, model, old, new)
    problems = check(repository)
    assert any(message in p.what and p.path == path and p.line > 0 for p in problems), problems
    assert all("; " in p.what for p in problems), "every problem says its mend"


def test_missing_things_are_named(model_dir: Path, tmp_path: Path) -> None:
    assert "does not exist" in str(check(tmp_path / "nowhere")[0])
    repository = make(model_dir, tmp_path / "repo")
    (repository / "postprocessing" / "config.pbtxt").unlink()
    (model_dir / "tokenizer.json").write_text("{}")
    text = "\n".join(map(str, check(repository)))
    assert "postprocessing/config.pbtxt:1: is missing" in text
    assert "tokenizer.json does not load" in text


def test_skeleton_and_backend_name_the_same_tensors(model_dir: Path, tmp_path: Path) -> None:
    """A tensor in one and not in the other would never arrive."""
    repository = make(model_dir, tmp_path / "repo")
    used = {
        node.value
        for file in ("backend.py", "textrequest.py", "preprocess.py", "postprocess.py")
        for node in ast.walk(ast.parse((ROOT / "src/trt_tokenizers" / file).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper()
    }
    for name in ("preprocessing", "postprocessing"):
        config = parse_config((repository / name / "config.pbtxt").read_text())
        assert {t.name for t in [*config.input, *config.output]} <= used
    engine = parse_config((repository / "tensorrt_llm" / "config.pbtxt").read_text())
    assert {t.name for t in engine.input} == set(tensors.INPUTS)


OLD = 'max_batch_size: ${size}\nparameters { key: "a" value: { string_value: "${a}" } }\n'


def test_fill_template_takes_the_old_commands_pairs() -> None:
    filled = fill_template(OLD, r"size:8,a:/x:y\,z", "config.pbtxt")
    config = parse_config(filled)
    assert (config.max_batch_size, config.parameters["a"].string_value) == (8, "/x:y,z")
    assert parse_config(fill_template(OLD, "a:,size:8", "x")).parameters["a"].string_value == ""


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("size:8,a", "'a' is no key:value"),
        ("size:8,b:1", "x has no placeholder 'b'"),
        ("a:1,siez:8", r"no placeholder 'siez' \(did you mean 'size'"),
        ("size:8", r"would keep \$\{a\}; give each a value"),
        ("size:,a:1", r"x: .*; correct the value on that line"),
    ],
)
def test_fill_template_refuses_what_the_old_one_let_through(pairs: str, message: str) -> None:
    with pytest.raises(RepositoryError, match=message):
        fill_template(OLD, pairs, "x")


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
