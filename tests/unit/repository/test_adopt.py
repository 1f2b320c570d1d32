"""adopt installs our text models, and clients of every version see no difference."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trt_tokenizers.cli.main import fill_template, main
from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.adopt import plan_adoption
from trt_tokenizers.repository.check import check
from trt_tokenizers.repository.check_engines import engine_problems
from trt_tokenizers.repository.pbtxt import format_config, parse_config
from trt_tokenizers.repository.schemas import VERSIONS, schema
from upstream import filled_by_readme, readme_commands, templates, tensor, upstream_repository


def snapshot(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


def config(repository: Path, model: str) -> Any:
    return parse_config((repository / model / "config.pbtxt").read_text())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["adopt", *map(str, arguments)])


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def old(version: str, bpe_dir: Path, tmp_path: Path) -> Path:
    return upstream_repository(tmp_path / "repo", version, bpe_dir)


def test_a_dry_run_prints_and_changes_nothing(old: Path) -> None:
    before = snapshot(old.parent)
    done = run("--dry-run", "--diff", old)
    assert done.exit_code == 0, done.output
    assert "+  step {" in done.stdout or "+ensemble_scheduling {" in done.stdout
    assert "a/preprocessing/1/model.py" in done.stdout
    assert "tensorrt_llm/" not in done.stdout.replace("/tensorrt_llm", "")
    assert "5 files would change" in done.stderr
    assert snapshot(old.parent) == before


def test_clients_find_every_tensor_unchanged(old: Path, version: str) -> None:
    """Names, types and shapes are those of the version's schema."""
    assert run(old).exit_code == 0
    ensemble = config(old, "ensemble")
    for kind, there in (("inputs", ensemble.input), ("outputs", ensemble.output)):
        found = {t.name: t for t in there}
        assert len(found) == len(there)
        types = type(there[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
        for line in schema(version)["ensemble"][kind]:
            wanted = tensor(line)
            kept = found[wanted["name"]]
            assert types[kept.data_type].name == wanted["type"], line
            assert list(kept.dims) == wanted["dims"], line
            if kind == "inputs" and wanted["optional"]:
                assert kept.optional, line
    assert {"messages", "stream"} <= {t.name for t in ensemble.input}
    assert "finish_reason" in {t.name for t in ensemble.output}
    consumed = {v for s in ensemble.ensemble_scheduling.step for v in s.input_map.values()}
    assert {t.name for t in ensemble.input} <= consumed, "an unused input"
    assert check_text(old) == []


def check_text(repository: Path) -> list[str]:
    """All problems but those of the engine, whose folder does not exist."""
    return [str(p) for p in check(repository) if "tensorrt_llm" not in p.path.parts]


def test_engine_and_values_stay_and_the_old_one_is_kept(old: Path) -> None:
    before = snapshot(old)
    engine = old / "tensorrt_llm/1/rank0.engine"
    engine.write_bytes(b"e" * (1 << 21))
    shown = run("--dry-run", "--diff", old).stdout
    done = run(old)
    assert done.exit_code == 0, done.output
    (backup,) = old.parent.glob("repo.before-*")
    engine.unlink()
    (backup / "tensorrt_llm/1/rank0.engine").unlink()
    assert snapshot(backup) == before
    after = snapshot(old)
    assert after["tensorrt_llm/config.pbtxt"] == before["tensorrt_llm/config.pbtxt"]
    assert "trt_tokenizers.backend" in after["preprocessing/1/model.py"]
    for model in ("preprocessing", "postprocessing"):
        was, now = (parse_config(s[f"{model}/config.pbtxt"]) for s in (before, after))
        assert now.max_batch_size == was.max_batch_size
        for name in ("tokenizer_dir", "skip_special_tokens", "add_special_tokens"):
            if name in was.parameters and (value := was.parameters[name].string_value):
                assert now.parameters[name].string_value == value
    assert config(old, "preprocessing").instance_group[0].count == 2
    (diff,) = old.parent.glob("repo.adopted-*.diff")
    assert {p.name for p in old.parent.iterdir()} == {"repo", backup.name, diff.name}
    assert diff.read_text() == shown


def test_the_summary(old: Path, version: str) -> None:
    """Files, what clients may notice, and what to do next; the lines are commands to paste."""
    before = config(old, "ensemble")
    done = run(old)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    files = lines[lines.index("files:") + 1 :][:5]
    assert {line.split()[0] for line in files} == {
        "ensemble/config.pbtxt", "preprocessing/config.pbtxt", "postprocessing/config.pbtxt",
        "preprocessing/1/model.py", "postprocessing/1/model.py",
    }  # fmt: skip
    assert all(re.search(r"  \+[1-9]\d* -[1-9]\d*$", line) for line in files)
    (inputs,) = (line for line in lines if line.startswith("  new inputs"))
    known = {tensor.name for tensor in before.input}
    new = set(inputs.partition(": ")[2].split(", "))
    assert "messages" in new
    assert not new & known
    assert new | known == {tensor.name for tensor in config(old, "ensemble").input}
    assert any(line.startswith("  new outputs") and "finish_reason" in line for line in lines)
    launch, back = lines[lines.index("next:") + 1 :]
    assert launch == f"  launch_server --model-repo {old}"
    subprocess.run(back, shell=True, check=True)
    assert config(old, "ensemble") == before


def test_a_dry_run_shows_what_adopt_then_does(bpe_dir: Path, tmp_path: Path) -> None:
    """In another process, where protobuf's maps have another order."""
    old = upstream_repository(tmp_path / "r", "0.17", bpe_dir)
    command = [sys.executable, "-c", "from trt_tokenizers.cli.main import main; main()", "adopt"]
    arguments = ("--dry-run", "--diff", "--skip-check", str(old))
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == run(*arguments).stdout


def test_what_to_do_next(bpe_dir: Path, tmp_path: Path) -> None:
    """Without the check, check first; the ranks are those of the engine."""
    engine = tmp_path / "engine"
    engine.mkdir()
    mapping = {"world_size": 2, "tp_size": 2, "pp_size": 1}
    (engine / "config.json").write_text(
        json.dumps({"pretrained_config": {"mapping": mapping}, "build_config": {}, "version": "1"})
    )
    old = upstream_repository(tmp_path / "r", "0.17", bpe_dir, engine_dir=str(engine))
    done = run("--skip-check", old)
    assert done.exit_code == 0, done.output
    lines = done.stderr.splitlines()
    check, launch, _ = lines[lines.index("next:") + 1 :]
    assert check.startswith(f"  trt-tokenizers check {old} ")
    assert launch == f"  launch_server --model-repo {old} --world-size 2"


def test_dynamic_batching_is_removed_with_a_note(bpe_dir: Path, tmp_path: Path) -> None:
    old = upstream_repository(tmp_path / "r", "0.17", bpe_dir)
    path = old / "preprocessing/config.pbtxt"
    path.write_text(path.read_text() + "dynamic_batching { max_queue_delay_microseconds: 7 }")
    done = run(old)
    assert done.exit_code == 0
    assert "preprocessing loses dynamic_batching" in done.stderr
    assert not config(old, "preprocessing").HasField("dynamic_batching")
    assert check_text(old) == []
    assert "nothing to do" in run(old).stderr


def test_a_second_run_changes_nothing(old: Path) -> None:
    assert run(old).exit_code == 0
    once = snapshot(old.parent)
    again = run(old)
    assert again.exit_code == 0
    assert "nothing to do" in again.stderr
    assert again.stdout == ""
    assert snapshot(old.parent) == once


def test_only_a_model_of_ours_is_replaced_again(bpe_dir: Path, tmp_path: Path) -> None:
    """As after an older version of this package."""
    old = upstream_repository(tmp_path / "repo", VERSIONS[-1], bpe_dir)
    assert run(old).exit_code == 0
    (old / "preprocessing/1/model.py").write_text("# older\n")
    done = run("--dry-run", old)
    assert done.exit_code == 0, done.output
    assert "  preprocessing/1/model.py  +" in done.stderr
    assert "1 files would change" in done.stderr
    assert "now refused" not in done.stderr


def test_the_prompt_in_front_of_whole_answers_stays(
    version: str, bpe_dir: Path, tmp_path: Path
) -> None:
    """The engine's setting decides; by default the engine returns the prompt."""
    has_parameter = "exclude_input_in_output" in schema(version)["tensorrt_llm"]["parameters"]
    has_input = "exclude_input_in_output" in str(schema(version)["tensorrt_llm"]["inputs"])
    for value in ("", "true"):
        old = upstream_repository(
            tmp_path / f"r{value}", version, bpe_dir, exclude_input_in_output=value
        )
        done = run(old)
        excludes = bool(value) and has_parameter
        before = config(old, "preprocessing").parameters["exclude_input_in_output"].string_value
        after = config(old, "postprocessing").parameters["prompt_in_output"].string_value
        assert before == str(excludes).lower()
        assert after == str(not excludes and not has_input).lower()
        assert ("begin with the prompt, as before" in done.stderr) is not excludes


def test_word_lists_and_stop_requests(old: Path, version: str) -> None:
    run(old)
    words = config(old, "preprocessing").parameters["word_lists"].string_value
    stop = config(old, "postprocessing").parameters["stop_model"].string_value
    assert (words, stop) == (("csv", "") if version == "0.5" else ("list", "tensorrt_llm"))


def test_unfilled_values_get_their_defaults(bpe_dir: Path, tmp_path: Path) -> None:
    old = upstream_repository(
        tmp_path / "r", "0.17", bpe_dir, add_special_tokens="${add_special_tokens}"
    )
    done = run(old)
    assert done.exit_code == 0, done.output
    assert "preprocessing: no value for add_special_tokens; the defaults are used" in done.stderr
    assert config(old, "preprocessing").parameters["add_special_tokens"].string_value == ""


@pytest.mark.parametrize("decoupled", ["True", "false"])
def test_what_the_readme_fills_is_adopted(
    version: str, decoupled: str, bpe_dir: Path, tmp_path: Path
) -> None:
    """What stays unfilled means "not set", as in NVIDIA's models; the BLS model stays."""
    old = filled_by_readme(tmp_path / "repo", version, bpe_dir, decoupled)
    assert "${" in (old / "tensorrt_llm/config.pbtxt").read_text()
    before = {name: snapshot(old / name) for name in ("tensorrt_llm", "tensorrt_llm_bls")}
    asked = {t.name for m in ("preprocessing", "postprocessing")
             for t in [*config(old, m).input, *config(old, m).output]}  # fmt: skip
    dry = run("--dry-run", old)
    assert dry.exit_code == 0, dry.output
    done = run(old)
    assert done.exit_code == 0, done.output
    assert check(old, engines=False) == []
    assert list(engine_problems(old, 1)) == [
        f"{old}/tensorrt_llm/config.pbtxt: gpt_model_path is '/e' and there is no such folder; "
        "set it to the absolute path of the engine's folder in the server"
    ]
    assert {name: snapshot(old / name) for name in before} == before
    stop = config(old, "postprocessing").parameters["stop_model"].string_value
    assert stop == ("tensorrt_llm" if version != "0.5" and decoupled == "True" else "")
    for model in ("preprocessing", "postprocessing"):
        text = (old / model / "config.pbtxt").read_text()
        assert "${" not in text
    if (old / "tensorrt_llm_bls").is_dir():
        there = {t.name for m in ("preprocessing", "postprocessing")
                 for t in [*config(old, m).input, *config(old, m).output]}  # fmt: skip
        assert asked <= there, "BLS names these tensors"
    assert "nothing to do" in run(old).stderr


def test_our_fill_template_fills_the_readmes_commands(
    version: str, bpe_dir: Path, tmp_path: Path
) -> None:
    theirs = filled_by_readme(tmp_path / "theirs", version, bpe_dir, "false")
    ours = templates(tmp_path / "ours", version)
    for model, pairs in readme_commands(version, bpe_dir, "/e", "false").items():
        path = ours / model / "config.pbtxt"
        if not path.is_file():
            continue
        done = CliRunner().invoke(fill_template, ["-i", str(path), pairs])
        assert done.exit_code == 0, done.output
        ours_config, theirs_config = config(ours, model), config(theirs, model)
        assert ours_config == theirs_config


def test_a_dry_run_and_adopt_find_the_same_problems(tmp_path: Path) -> None:
    old = upstream_repository(tmp_path / "r", "0.17", tmp_path / "no tokenizer")
    dry, done = run("--dry-run", old), run(old)
    assert (dry.exit_code, done.exit_code) == (1, 1)
    assert dry.stderr == done.stderr
    assert f"{old}/preprocessing/config.pbtxt: as adopt would write it, " in done.stderr


@pytest.mark.parametrize("link", ["preprocessing", "preprocessing/1", "preprocessing/config.pbtxt",
                                  "preprocessing/1/model.py"])  # fmt: skip
def test_links_in_the_way_become_copies(link: str, old: Path, tmp_path: Path) -> None:
    """Nothing outside the repository changes, and the backup keeps the link."""
    outside = tmp_path / "outside"
    (old / link).rename(outside)
    (old / link).symlink_to(outside)
    before = snapshot(tmp_path)
    done = run(old)
    assert done.exit_code == 0, done.output
    (backup,) = tmp_path.glob("repo.before-*")
    assert (backup / link).is_symlink()
    assert not (old / link).is_symlink()
    after = snapshot(tmp_path)
    assert {k: v for k, v in after.items() if k.startswith("outside")} == {
        k: v for k, v in before.items() if k.startswith("outside")
    }
    assert "trt_tokenizers.backend" in (old / "preprocessing/1/model.py").read_text()


def test_a_named_pipe_in_the_repository_is_refused(bpe_dir: Path, tmp_path: Path) -> None:
    old = upstream_repository(tmp_path / "r", "0.17", bpe_dir)
    os.mkfifo(old / "pipe")
    done = run(old)
    assert done.exit_code == 1
    assert f"{old} cannot be written: " in done.stderr
    assert "is a named pipe" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_sizes_come_from_the_engine(bpe_dir: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    (engine / "config.json").write_text(
        '{"pretrained_config": {"vocab_size": 600}, "build_config": {"max_seq_len": 4096}}'
    )
    old = upstream_repository(tmp_path / "r", "0.17", bpe_dir, engine_dir=str(engine))
    assert run(old).exit_code == 0
    values = config(old, "preprocessing").parameters
    assert values["max_seq_len"].string_value == "4096"
    assert values["vocab_size"].string_value == "600"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "was", "now", "message"),
    [
        ("ensemble", "max_batch_size: 8", "max_batch_size: ${triton_max_batch_size}",
         r"ensemble/config.pbtxt:2: ${triton_max_batch_size} has no value; fill it: "),
        ("ensemble", 'model_name: "tensorrt_llm"', 'model_name: "postprocessing"',
         "has the steps preprocessing, postprocessing, postprocessing"),
        ("tensorrt_llm", 'name: "input_lengths"', 'name: "input_lenghts"',
         "needs the input 'input_lenghts', which neither preprocessing nor a client provides"),
        ("tensorrt_llm", 'name: "output_ids"', 'name: "ids"', "has no output 'output_ids'"),
        ("tensorrt_llm", 'name: "cum_log_probs"', 'name: "x"',
         "the output 'cum_log_probs' is made by neither"),
        ("preprocessing", '"visual_model_path"\n  value: {\n    string_value: ""',
         '"visual_model_path"\n  value: {\n    string_value: "/v"', "does not serve images"),
        ("preprocessing", "backend", "backendd", "not a Triton model configuration"),
    ],
)  # fmt: skip
def test_unsuitable_repositories_are_refused(
    bpe_dir: Path, tmp_path: Path, file: str, was: str, now: str, message: str
) -> None:
    old = upstream_repository(tmp_path / "r", "0.17", bpe_dir)
    replace(old / file / "config.pbtxt", was, now)
    before = snapshot(tmp_path)
    done = run(old)
    assert done.exit_code == 1, done.output
    assert message in done.stderr
    assert snapshot(tmp_path) == before


def test_a_missing_model_and_a_missing_tokenizer(bpe_dir: Path, tmp_path: Path) -> None:
    old = upstream_repository(tmp_path / "r", "1.2", tmp_path / "nowhere")
    before = snapshot(tmp_path)
    done = run(old)
    assert done.exit_code == 1
    assert f"{old}/preprocessing/config.pbtxt:" in done.stderr
    assert "nowhere' is not a folder" in done.stderr
    assert snapshot(tmp_path) == before
    assert run("--skip-check", old).exit_code == 0
    shutil.rmtree(old / "postprocessing")
    with pytest.raises(RepositoryError, match=r"postprocessing/config\.pbtxt is missing"):
        plan_adoption(old)


def test_a_repository_of_ours_does_not_change(bpe_dir: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(bpe_dir, model)
    (model / "config.json").write_text('{"n_positions": 64}')
    made = ["generate", "--model", str(model), "--output", str(tmp_path / "repo")]
    assert CliRunner().invoke(main, made).exit_code == 0
    before = snapshot(tmp_path)
    done = run(tmp_path / "repo")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "note: tensorrt_llm is an engine of this package" in done.stderr
    assert snapshot(tmp_path) == before


def test_an_engine_with_another_name(bpe_dir: Path, tmp_path: Path) -> None:
    old = upstream_repository(tmp_path / "r", "0.17", bpe_dir)
    (old / "tensorrt_llm").rename(old / "llama")
    replace(old / "llama/config.pbtxt", 'name: "tensorrt_llm"', 'name: "llama"')
    replace(old / "ensemble/config.pbtxt", 'model_name: "tensorrt_llm"', 'model_name: "llama"')
    done = run(old)
    assert done.exit_code == 0, done.output
    assert config(old, "postprocessing").parameters["stop_model"].string_value == "llama"
    assert check(old, engines=False) == []


def test_an_input_that_only_their_preprocessing_read_is_refused(
    bpe_dir: Path, tmp_path: Path
) -> None:
    """Otherwise clients would send it without effect."""
    old = upstream_repository(tmp_path / "r", "0.17", bpe_dir)
    replace(
        old / "ensemble/config.pbtxt",
        "input [\n",
        'input [\n  { name: "persona" data_type: TYPE_STRING dims: [ 1 ] optional: true },\n',
    )
    done = run(old)
    assert done.exit_code == 1
    assert "no step reads the input 'persona'" in done.stderr


#: Versions between 0.5 and 0.11, from configurations in public reports: the most similar schema,
#: the inputs that they have in addition, and those that they lack.
BETWEEN = {
    "0.6": ("0.5", {"draft_input_ids": "TYPE_INT32"}, set()),
    "0.8": ("0.11", {}, {"decoder_input_ids", "decoder_input_lengths"}),
}


@pytest.mark.parametrize("version", BETWEEN)
def test_versions_between_the_schemas_are_adopted_by_their_tensors(
    version: str, bpe_dir: Path, tmp_path: Path
) -> None:
    base, more, less = BETWEEN[version]
    repository = upstream_repository(tmp_path / "repo", base, bpe_dir)
    engine = config(repository, "tensorrt_llm")
    for name in less:
        engine.input.remove(next(tensor for tensor in engine.input if tensor.name == name))
    for name, kind in more.items():
        engine.input.add(name=name, data_type=kind, dims=[-1], optional=True)
    path = repository / "tensorrt_llm/config.pbtxt"
    path.write_text(format_config(engine))
    ensemble = config(repository, "ensemble")
    (step,) = (s for s in ensemble.ensemble_scheduling.step if s.model_name == "tensorrt_llm")
    for name in less:
        del step.input_map[name]
    (repository / "ensemble/config.pbtxt").write_text(format_config(ensemble))
    path.write_text(path.read_text().replace("/engines/e", "${engine_dir}"))
    filled = CliRunner().invoke(fill_template, ["-i", str(path), "engine_dir:/engines/e"])
    assert filled.exit_code == 0, filled.output
    before, inputs = path.read_text(), {(t.name, t.data_type) for t in ensemble.input}
    done = run(repository)
    assert done.exit_code == 0, done.output
    assert path.read_text() == before
    assert check_text(repository) == []
    adopted = config(repository, "ensemble")
    assert inputs <= {(t.name, t.data_type) for t in adopted.input}
    (step,) = (s for s in adopted.ensemble_scheduling.step if s.model_name == "tensorrt_llm")
    assert set(step.input_map) <= {t.name for t in engine.input}


@pytest.mark.parametrize("client", [False, True])
def test_an_engine_with_min_p(bpe_dir: Path, tmp_path: Path, client: bool) -> None:
    repository = upstream_repository(tmp_path / "repo", "0.17", bpe_dir)
    engine, ensemble = config(repository, "tensorrt_llm"), config(repository, "ensemble")
    engine.input.add(name="min_p", data_type="TYPE_FP32", dims=[1], optional=True)
    if client:
        ensemble.input.add(name="min_p", data_type="TYPE_FP32", dims=[1], optional=True)
        (step,) = (s for s in ensemble.ensemble_scheduling.step if s.model_name == "tensorrt_llm")
        step.input_map["min_p"] = "min_p"
    (repository / "tensorrt_llm/config.pbtxt").write_text(format_config(engine))
    (repository / "ensemble/config.pbtxt").write_text(format_config(ensemble))
    done = run(repository)
    assert done.exit_code == 0, done.output
    assert check_text(repository) == []
    adopted = config(repository, "ensemble")
    (step,) = (s for s in adopted.ensemble_scheduling.step if s.model_name == "tensorrt_llm")
    assert step.input_map.get("min_p") == ("min_p" if client else None)
