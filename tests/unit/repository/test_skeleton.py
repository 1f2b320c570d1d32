"""The generator and the skeleton: files parse, values arrive, errors are named."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.check import check
from trt_tokenizers.repository.generate import GenerateOptions, render, write
from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.streams.ensemble_inputs import INPUTS

ROOT = Path(__file__).parents[3]


@pytest.fixture
def model_dir(bpe_dir: Path, tmp_path: Path) -> Path:
    """A model folder without weights, which are not loaded here."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in bpe_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    return folder


def make(model_dir: Path, output: Path, *, engine: str = "transformers", **options: object) -> Path:
    write(render(GenerateOptions(engine, model_dir, **options)), output, force=True)
    return output


def test_a_generated_repository_has_no_problems(model_dir: Path, tmp_path: Path) -> None:
    repository = make(model_dir, tmp_path / "repo")
    assert check(repository) == []
    assert not [p for p in repository.rglob("*") if p.is_file() and "${" in p.read_text()]
    config = parse_config((repository / "preprocessing" / "config.pbtxt").read_text())
    assert config.parameters["max_seq_len"].string_value == "64"
    assert config.parameters["tokenizer_dir"].string_value == str(model_dir)


def test_a_value_that_does_not_parse_is_refused(model_dir: Path) -> None:
    with pytest.raises(RepositoryError, match=r"ensemble/config\.pbtxt:4: .* whole number"):
        render(GenerateOptions("transformers", model_dir, values={"triton_max_batch_size": "many"}))


def test_an_unknown_value_is_refused(model_dir: Path) -> None:
    with pytest.raises(RepositoryError, match=r"unknown value 'dtpye' \(did you mean 'dtype'"):
        render(GenerateOptions("transformers", model_dir, values={"dtpye": "x"}))


def test_folders_without_a_model_or_tokenizer_are_refused(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(RepositoryError, match=r"holds no config\.json"):
        render(GenerateOptions("transformers", tmp_path))
    with pytest.raises(RepositoryError, match=r"tokenizer folder .* does not exist"):
        render(GenerateOptions("transformers", model_dir, tokenizer_dir=tmp_path / "no"))


def test_files_of_others_are_not_overwritten(model_dir: Path, tmp_path: Path) -> None:
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
    assert not (ours / "old").exists(), "a file of the earlier repository that the new one lacks"
    assert (ours / "mine").read_text() == "precious"
    with pytest.raises(RepositoryError, match="ours/mine was not made by this command; move it"):
        write({**rendered, "mine": "x"}, ours, force=True)
    assert (ours / "mine").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "ours", "theirs"]


def test_generated_files_follow_the_table_of_inputs() -> None:
    made: dict[Path, str] = runpy.run_path(str(ROOT / "scripts/write_inputs.py"))["files"]()
    assert len(made) == 5
    for path, text in made.items():
        assert path.read_text() == text, "run scripts/write_inputs.py"


@pytest.mark.parametrize("engine", ["transformers", "llmapi"])
def test_every_input_reaches_its_models(model_dir: Path, tmp_path: Path, engine: str) -> None:
    repository = make(model_dir, tmp_path / "repo", engine=engine)
    configs = {
        name: parse_config((repository / name / "config.pbtxt").read_text())
        for name in ("ensemble", "preprocessing", "tensorrt_llm")
    }
    declared = {
        name: {each.name: (each.data_type, list(each.dims)) for each in config.input}
        for name, config in configs.items()
    }
    preprocessing, llm, _ = configs["ensemble"].ensemble_scheduling.step
    for each in INPUTS:
        if not each.skeleton:
            continue
        assert each.engines or "refused" in each.meaning, each.name
        for step, name in ((preprocessing, each.to_preprocessing), (llm, each.to_engine)):
            if name:
                assert step.input_map[name] == each.name
                assert declared[step.model_name][name] == declared["ensemble"][each.name]
    assert llm.input_map["min_p"] == "min_p"


def test_the_ensemble_has_the_outputs_of_the_options(model_dir: Path, tmp_path: Path) -> None:
    repository = make(model_dir, tmp_path / "repo", outputs=("text_output", "first_token_time_ns"))
    config = parse_config((repository / "ensemble" / "config.pbtxt").read_text())
    assert [output.name for output in config.output] == ["text_output", "first_token_time_ns"]
    mapped = {v for s in config.ensemble_scheduling.step for v in s.output_map.values()}
    assert {v for v in mapped if not v.startswith("_")} == {"text_output", "first_token_time_ns"}
    assert check(repository) == []
    with pytest.raises(
        RepositoryError, match=r"no output 'text_otput' \(did you mean 'text_output'"
    ):
        make(model_dir, tmp_path / "repo", outputs=("text_otput",))
