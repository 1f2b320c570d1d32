"""check finds each of many single errors with file, line and fix, and raises no false alarm."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_generate import cpp
from test_generate import run as generate

from trt_tokenizers.cli.main import main
from trt_tokenizers.repository.adopt import adopt, plan_adoption
from trt_tokenizers.repository.check import check
from trt_tokenizers.repository.schemas import VERSIONS
from upstream import upstream_repository

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def good(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each kind of engine, a folder with a repository, engine or model, and tokenizer."""
    folders = {}
    for kind in ("python", "cpp"):
        folder = folders[kind] = tmp_path_factory.mktemp(kind)
        shutil.copytree(bpe_dir, folder / "tokenizer")
        if kind == "cpp":
            done = cpp(folder, folder / "tokenizer", "0.17")
        else:
            (folder / "model").mkdir()
            (folder / "model/config.json").write_text('{"max_position_embeddings": 64}')
            done = generate(
                *("--model", folder / "model", "--tokenizer-dir", folder / "tokenizer"),
                *("--output", folder / "repo"),
            )
        assert done.exit_code == 0, done.output
    return folders


def text(model: str, old: str, new: str) -> Change:
    """Replace the first *old* in that model's config.pbtxt."""

    def change(folder: Path) -> None:
        path = folder / "repo" / model / "config.pbtxt"
        before = path.read_text()
        assert old in before, f"{old} in {before}"
        path.write_text(before.replace(old, new, 1))

    return change


def value(model: str, key: str, new: str) -> Change:
    """Give a parameter another value, in both styles of config.pbtxt."""

    def change(folder: Path) -> None:
        path = folder / "repo" / model / "config.pbtxt"
        head, found, tail = path.read_text().partition(f'key: "{key}"')
        assert found
        before, _, rest = tail.partition('string_value: "')
        path.write_text(f'{head}{found}{before}string_value: "{new}"{rest.partition(chr(34))[2]}')

    return change


def remove(path: str) -> Change:
    return lambda folder: (folder / path).unlink()


def file(path: str, content: str) -> Change:
    return lambda folder: (folder / path).write_text(content)


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


ENSEMBLE, BEFORE = "ensemble/config.pbtxt", "preprocessing/config.pbtxt"
ENGINE, AFTER = "tensorrt_llm/config.pbtxt", "postprocessing/config.pbtxt"

#: The change, the file of the expected problem, and a part of its message.
PYTHON: list[tuple[Change, str, str]] = [
    (text("ensemble", 'value: "text_input"', 'value: "text_inpt"'), ENSEMBLE,
     "nothing makes 'text_inpt' (did you mean 'text_input'?)"),
    (text("ensemble", 'key: "QUERY"', 'key: "QUERRY"'), ENSEMBLE,
     "'preprocessing' has no input 'QUERRY' (did you mean 'QUERY'?)"),
    (text("ensemble", 'key: "OUTPUT"', 'key: "OUTPT"'), ENSEMBLE,
     "'postprocessing' has no output 'OUTPT'"),
    (text("ensemble", 'model_name: "postprocessing"', 'model_name: "post"'), ENSEMBLE,
     "step 'post' is not a model"),
    (text("ensemble", 'input_map { key: "TOKENS_BATCH" value: "_TOKENS_BATCH" }', ""), ENSEMBLE,
     "'postprocessing' needs the input 'TOKENS_BATCH'"),
    (text("ensemble", "TYPE_STRING", "TYPE_INT32"), ENSEMBLE, "another data_type"),
    (text("ensemble", "dims: [ 1 ]", "dims: [ 2 ]"), ENSEMBLE,
     "'text_input' has dims [2] and the input 'QUERY' of 'preprocessing' [1]"),
    (text("ensemble", "max_batch_size: 64", "max_batch_size: ${x}"), ENSEMBLE,
     "${x} has no value; fill it"),
    (text("ensemble", "max_batch_size: 64", "max_batch_size: 65"), ENSEMBLE,
     "max_batch_size is 65 and that of 'preprocessing' is 64; set it to 64 here"),
    (text("ensemble", 'platform: "ensemble"', 'backend: "python"'), ENSEMBLE,
     'set it to "ensemble"'),
    (text("ensemble", 'name: "ensemble"', 'name: "ensembel"'), ENSEMBLE,
     "name is 'ensembel' and the folder is 'ensemble'"),
    (text("ensemble", 'name: "stream"', 'name: "strem"'), ENSEMBLE, "nothing makes 'stream'"),
    (text("ensemble", 'name: "top_k"', 'name: "top_p"'), ENSEMBLE, "'top_p' is declared 2 times"),
    (text("ensemble", 'input_map { key: "temperature" value: "temperature" }', ""), ENSEMBLE,
     "no step reads the input 'temperature'"),
    (text("ensemble", 'output_map { key: "OUT_FINISH_REASON" value: "finish_reason" }', ""),
     ENSEMBLE, "no step makes the output 'finish_reason'"),
    (text("ensemble", 'key: "LOG_PROBS" value: "_LOG_PROBS"',
          'key: "SEQUENCE_LENGTH" value: "_REQUEST_INPUT_LEN"'), ENSEMBLE,
     "'postprocessing' reads '_REQUEST_INPUT_LEN' and also outputs of the decoupled model"),
    (text("ensemble", 'value: "_LOG_PROBS"', 'value: "_TOKENS_BATCH"'), ENSEMBLE,
     "'_TOKENS_BATCH' is made twice"),
    (text("preprocessing", "max_batch_size: 64", "max_batch_size: x"), BEFORE,
     "not a Triton model config"),
    (text("preprocessing", 'key: "template"', 'key: "tempalte"'), BEFORE,
     "did you mean 'template'"),
    (value("preprocessing", "tokenizer_type", "otto"), BEFORE, "unknown tokenizer type 'otto'"),
    (value("preprocessing", "template", "chatlm"), BEFORE, "did you mean 'chatml'"),
    (value("preprocessing", "max_seq_len", "many"), BEFORE, "'many'; expected a whole number"),
    (value("preprocessing", "word_lists", "comma"), BEFORE, "it must be list or csv"),
    (value("preprocessing", "stream_key", "tenser"), BEFORE, "it must be one of auto, tensor"),
    (value("preprocessing", "tokenizer_dir", "/nowhere"), BEFORE, "'/nowhere' is not a folder"),
    (text("preprocessing", 'backend: "python"', 'backend: "pyton"'), BEFORE,
     "backend is 'pyton'; set backend"),
    (remove("repo/preprocessing/1/model.py"), BEFORE, "'preprocessing' has no model.py"),
    (remove("repo/postprocessing/config.pbtxt"), AFTER, "is missing; the ensemble needs"),
    (text("postprocessing", "count: 1", "count: 2"), AFTER, "several instances"),
    (text("postprocessing", "kind: KIND_CPU", "kind: KIND_GPU gpus: [0, 1]"), AFTER,
     "several instances"),
    (text("postprocessing", "instance_group [", "dynamic_batching {}\ninstance_group ["), AFTER,
     "dynamic batcher corrupts the server's memory"),
    (text("preprocessing", "instance_group [", "dynamic_batching {}\ninstance_group ["), BEFORE,
     "dynamic batcher corrupts the server's memory"),
    (value("postprocessing", "stream_key", "auto"), AFTER,
     "stream_key is 'auto' and that of preprocessing is 'tensor'"),
    (value("postprocessing", "stop_model", "tensorrtllm"), AFTER,
     "stop_model is 'tensorrtllm', which is not a model here (did you mean 'tensorrt_llm'?)"),
    (value("postprocessing", "tokenizer_type", "gpt2"), AFTER,
     "tokenizer_type is 'gpt2' and that of preprocessing is 'auto'"),
    (value("tensorrt_llm", "max_tokens_per_chunk", "few"), ENGINE,
     "'few'; expected a whole number"),
    (value("tensorrt_llm", "engine", "transfromers"), ENGINE, "did you mean 'transformers'"),
    (value("tensorrt_llm", "dtype", "int4"), ENGINE, "dtype is 'int4'; it must be one of"),
    (value("tensorrt_llm", "max_queue_size", "-1"), ENGINE, "max_queue_size is -1; it must be"),
    (both(value("preprocessing", "tokenizer_type", "gpt2"),
          value("postprocessing", "tokenizer_type", "gpt2"), remove("tokenizer/tokenizer.json")),
     BEFORE, "needs vocab.json and merges.txt, or tokenizer.json"),
    (file("tokenizer/tokenizer.json", "{}"), BEFORE, "tokenizer.json does not load"),
    (file("tokenizer/tokenizer_config.json", '{"chat_template": "{% if %}"}'), BEFORE,
     "template 'auto', line 1"),
    (file("tokenizer/tokenizer_config.json", '{"chat_template": "Hi"}'), BEFORE,
     "omits the message from the prompt 'Hi'"),
    (file("tokenizer/tokenizer_config.json",
          '{"chat_template": "{{ raise_exception(\\"no users\\") }}"}'), BEFORE, "no users"),
]  # fmt: skip
CPP: list[tuple[Change, str, str]] = [
    (remove("engine/rank1.engine"), ENGINE, "rank1.engine of the engine's 2 ranks is missing"),
    (remove("engine/config.json"), ENGINE, "config.json cannot be read: No such file"),
    (file("engine/config.json", "{}"), ENGINE, "give the folder that trtllm-build made"),
    (value("tensorrt_llm", "gpt_model_path", "/no"), ENGINE, "there is no such folder"),
    (value("tensorrt_llm", "gpt_model_path", ""), ENGINE, "gpt_model_path has no value"),
    (text("tensorrt_llm", "max_batch_size: 16", "max_batch_size: 17"), ENGINE,
     "was built for at most 16; set it to 16 here"),
    (text("tensorrt_llm", '"max_beam_width"', '"max_beam_widht"'), ENGINE,
     "unknown parameter 'max_beam_widht' (did you mean 'max_beam_width'?)"),
    (value("tensorrt_llm", "gpt_model_path", "${engine_dir}"), ENGINE,
     "gpt_model_path has no value"),
    (value("tensorrt_llm", "kv_cache_free_gpu_mem_fraction", "most"), ENGINE,
     "kv_cache_free_gpu_mem_fraction is 'most'; it must be a number"),
    (value("tensorrt_llm", "gpt_model_type", "inflight"), ENGINE, "it must be one of V1"),
    (value("preprocessing", "stream_key", "sequence"), BEFORE, "it must be one of auto"),
    (text("ensemble", 'value: "lora_task_id"', 'value: "lora_id"'), ENSEMBLE,
     "nothing makes 'lora_id'"),
    (text("tensorrt_llm", 'name: "min_length"', 'name: "min_tokens"'), ENSEMBLE,
     "'tensorrt_llm' has no input 'min_length'"),
]  # fmt: skip
CASES = [("python", *case) for case in PYTHON] + [("cpp", *case) for case in CPP]


@pytest.mark.parametrize(("kind", "change", "where", "message"), CASES,
                         ids=[f"{case[0]}-{case[3][:40]}" for case in CASES])  # fmt: skip
def test_an_error_is_found(
    good: dict[str, Path], tmp_path: Path, kind: str, change: Change, where: str, message: str
) -> None:
    folder = tmp_path / kind
    shutil.copytree(good[kind], folder)
    for path in folder.glob("repo/*/config.pbtxt"):
        path.write_text(path.read_text().replace(str(good[kind]), str(folder)))
    change(folder)
    problems = check(folder / "repo")
    named = [p for p in problems if message in p.what and p.path == folder / "repo" / where]
    assert named, problems
    # The line exists in the file.
    lines = named[0].path.read_text().splitlines() if named[0].path.exists() else [""]
    assert 1 <= named[0].line <= len(lines)
    assert all("; " in p.what for p in problems), "every problem names its fix"
    assert len({p.path for p in problems}) <= 2, problems


def test_good_repositories_have_no_problems(
    good: dict[str, Path], bpe_dir: Path, tmp_path: Path
) -> None:
    for folder in good.values():
        assert check(folder / "repo") == []
    for version in VERSIONS:
        folder = tmp_path / version
        folder.mkdir()
        assert cpp(folder, bpe_dir, version).exit_code == 0
        assert check(folder / "repo") == []
        adopted = upstream_repository(tmp_path / f"adopted-{version}", version, bpe_dir)
        adopt(adopted, plan_adoption(adopted))
        assert check(adopted, engines=False) == []


def test_comments_are_ignored(good: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(good["cpp"], tmp_path / "cpp")
    path = tmp_path / "cpp/repo" / ENGINE
    path.write_text(f"# was: ${{engine_dir}}\n  # {{\n{path.read_text()}# end\n")
    assert check(tmp_path / "cpp/repo") == []


def test_the_line_is_that_of_the_error(good: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(good["cpp"], tmp_path / "cpp")
    repository = tmp_path / "cpp/repo"
    value("tensorrt_llm", "max_beam_width", "two")(tmp_path / "cpp")
    (problem,) = check(repository)
    lines = (repository / ENGINE).read_text().splitlines()
    assert '"max_beam_width"' in lines[problem.line - 1]
    assert str(problem).startswith(f"{repository / ENGINE}:{problem.line}: max_beam_width is")


def test_the_command(good: dict[str, Path], tmp_path: Path) -> None:
    run = CliRunner().invoke
    fine = run(main, ["check", str(good["cpp"] / "repo")])
    assert fine.exit_code == 0
    assert fine.stderr.endswith("has no problems\n")
    assert json.loads(run(main, ["check", "--json", str(good["cpp"] / "repo")]).stdout) == []
    shutil.copytree(good["cpp"], tmp_path / "cpp")
    value("tensorrt_llm", "gpt_model_path", "/no")(tmp_path / "cpp")
    repository = str(tmp_path / "cpp/repo")
    wrong = run(main, ["check", "--json", repository])
    assert wrong.exit_code == 1
    (problem,) = json.loads(wrong.stdout)
    assert set(problem) == {"file", "line", "what", "fix"}
    assert problem["fix"].startswith("set it to the absolute path of the engine's folder")
    assert run(main, ["check", "--no-engine", repository]).exit_code == 0
    nowhere = run(main, ["check", str(tmp_path / "nowhere")])
    assert (nowhere.exit_code, "does not exist" in nowhere.stdout) == (1, True)
