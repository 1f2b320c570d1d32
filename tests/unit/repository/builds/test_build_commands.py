"""The printed commands: golden files, each option against the table, and our own lines run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from models_to_build import MODELS, model_folder
from trt_tokenizers.cli.launch import launch_server
from trt_tokenizers.cli.main import main
from trt_tokenizers.cli.repository import fill_template
from trt_tokenizers.repository.builds import facts
from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.repository.schemas import minor_version
from upstream import templates

GOLDEN = Path(__file__).parent / "golden"
#: Model -> the versions that know it, of 0.5, 0.7, 0.8, 0.10, 0.12, 0.17, 1.0 and 1.2.
KNOWN = {
    "Llama-2-7b-hf": ["0.5", "0.7", "0.8", "0.10", "0.12", "0.17", "1.0", "1.2"],
    "Llama-3.1-8B": ["0.12", "0.17", "1.0", "1.2"],
    "Qwen2.5-7B": ["0.10", "0.12", "0.17", "1.0", "1.2"],
    "Mixtral-8x7B-v0.1": ["0.7", "0.8", "0.10", "0.12", "0.17", "1.0", "1.2"],
    "gpt2": ["0.5", "0.7", "0.8", "0.10", "0.12", "0.17", "1.0", "1.2"],
    "gemma-7b": ["0.10", "0.12", "0.17", "1.0", "1.2"],
}
CASES = [(name, version) for name, versions in KNOWN.items() for version in versions]
LIMITS = ["--max-batch-size", "16", "--max-seq-len", "1024"]


def run(model: Path, version: str, *more: object) -> Result:
    arguments = ["--model", str(model), "--tensorrt-llm-version", version, *map(str, more)]
    return CliRunner().invoke(main, ["build-command", *arguments])


def built(model: Path, version: str, *more: object) -> dict[str, Any]:
    done = run(model, version, "--json", *more)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def program_of(words: list[str]) -> str:
    """The program of a command, by the name that the table has for it."""
    path = words[1] if words[0] == "python3" else words[0]
    names = [name for name in facts.PROGRAMS if path.endswith(f"/{name}") or path == name]
    return max(names, key=len, default="")


@pytest.mark.parametrize(("name", "version"), CASES)
def test_golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    """To renew the files: UPDATE_GOLDEN=1 pytest FILE, then read the difference."""
    monkeypatch.chdir(tmp_path)
    folder = model_folder(tmp_path / "models", name)
    done = run(
        folder, version, "--world-size", 2, "--gpu", "H100", "--gpu-memory", 80, *LIMITS,
        "--output-dir", "engines/e",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    text = done.stdout.replace(str(tmp_path), "/srv")
    file = GOLDEN / f"{name}-{version}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


def test_no_other_golden_files_are_left() -> None:
    assert {p.name for p in GOLDEN.iterdir()} == {f"{n}-{v}.txt" for n, v in CASES}


@pytest.mark.parametrize(("name", "version"), CASES)
def test_every_option_is_in_the_table(name: str, version: str) -> None:
    programs = []
    for line in (GOLDEN / f"{name}-{version}.txt").read_text().splitlines():
        words = [] if line.startswith("#") else shlex.split(line)
        if not words or not (program := program_of(words)):
            continue
        programs.append(program)
        for option in (word for word in words if word.startswith("-")):
            rows = [r for r in facts.OPTIONS if program in r.programs and r.name == option]
            assert any(
                minor_version(r.since) <= minor_version(version) <= minor_version(r.until)
                for r in rows
            ), f"{program} {option}"
    assert programs
    rows = [r for r in facts.RECIPES if MODELS[name][2]["model_type"] in r.model_types]
    assert programs in [r.programs for r in rows if facts.valid(r, version)]


@pytest.mark.parametrize("name", MODELS)
def test_other_versions_do_not_know_the_model(tmp_path: Path, name: str) -> None:
    folder = model_folder(tmp_path, name)
    for version in ("0.5", "0.7", "0.8", "0.10", "0.12", "0.17", "1.0", "1.2"):
        done = run(folder, version)
        assert (done.exit_code == 0) == (version in KNOWN[name]), version
        if done.exit_code:
            assert done.exit_code == 1
            assert f"does not know model_type {MODELS[name][2]['model_type']!r}" in done.stderr


def test_the_original_recipe(tmp_path: Path) -> None:
    """Llama 2 in bfloat16 on two GPUs with 0.5.0, option for option."""
    folder = model_folder(tmp_path, "Llama-2-7b-hf")
    steps = built(folder, "0.5.0", "--world-size", 2, "--output-dir", tmp_path / "engines")["build"]
    words = steps[-1]["arguments"]
    assert words[:2] == ["python3", f"{tmp_path}/TensorRT-LLM/examples/llama/build.py"]
    options: dict[str, str | None] = {}
    for word in words[2:]:
        if word.startswith("--"):
            options[word] = None
        else:
            options[list(options)[-1]] = word
    assert options == {
        "--model_dir": str(folder),
        "--dtype": "bfloat16",
        "--use_gpt_attention_plugin": "bfloat16",
        "--use_gemm_plugin": "bfloat16",
        "--remove_input_padding": None,
        "--use_inflight_batching": None,
        "--paged_kv_cache": None,
        "--enable_context_fmha": None,
        "--world_size": "2",
        "--tp_size": "2",
        "--pp_size": "1",
        "--parallel_build": None,
        "--output_dir": str(tmp_path / "engines"),
    }


def test_the_container_sees_all_files_of_the_model(tmp_path: Path) -> None:
    """In Hugging Face's cache the files of a model are links to another folder."""
    folder = model_folder(tmp_path / "cache/snapshots", "Llama-2-7b-hf")
    blobs = tmp_path / "cache/blobs"
    blobs.mkdir()
    for file in list(folder.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(f"../../blobs/{file.name}")
    for output, expected in (("out/engine", [tmp_path / "out", folder, blobs]),
                             ("cache/engine", [tmp_path / "cache"])):  # fmt: skip
        steps = built(folder, "1.2", "--output-dir", tmp_path / output)["build"]
        (words,) = [step["arguments"] for step in steps if step["arguments"][0] == "docker"]
        volumes = [words[at + 1] for at, word in enumerate(words) if word == "-v"]
        assert volumes == [f"{each}:{each}" for each in expected]


def test_the_variant_of_gpt_is_not_left_to_the_name_of_the_folder(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "gpt2")
    assert "--gpt_variant gpt2" in built(folder, "0.12")["build"][-2]["command"]
    llama = model_folder(tmp_path, "Llama-2-7b-hf")
    assert "--gpt_variant" not in built(llama, "0.12")["build"][-2]["command"]


def last(model: Path, version: str, *more: object) -> str:
    return str(built(model, version, *more)["build"][-1]["command"])


def test_names_change_with_the_version(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "Llama-2-7b-hf")
    more = ("--max-input-len", 1000, "--max-seq-len", 3000)
    for version in ("0.8", "0.10"):
        command = last(folder, version, *more)
        assert "--paged_kv_cache enable" in command
        assert "--max_input_len 1000 --max_output_len 2000" in command
    for version in ("0.12", "0.13", "1.2"):
        command = last(folder, version, *more)
        assert ("--kv_cache_type paged" in command) == (version != "0.12")
        assert "--max_input_len 1000 --max_seq_len 3000" in command
        assert "--max_output_len" not in command
    # trtllm-build of 0.8 to 0.10 takes one request at a time by default.
    assert "--max_batch_size 8" in last(folder, "0.10")
    assert "--max_batch_size" not in last(folder, "0.11")


def test_quantization(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "Llama-3.1-8B")
    convert, build = built(folder, "0.17", "--quantization", "int4_wo")["build"][-2:]
    assert "--use_weight_only --weight_only_precision int4" in convert["command"]
    assert "--gemm_plugin bfloat16" in build["command"]
    calibrate, build = built(folder, "0.17", "--quantization", "fp8")["build"][-2:]
    assert "examples/quantization/quantize.py" in calibrate["command"]
    assert "--qformat fp8 --kv_cache_dtype fp8" in calibrate["command"]
    assert "--gemm_plugin" not in build["command"]
    convert, build = built(folder, "0.17", "--quantization", "int8_sq")["build"][-2:]
    assert "--smoothquant 0.5 --per_token --per_channel" in convert["command"]
    assert "--gemm_plugin bfloat16" in build["command"]
    gemma = model_folder(tmp_path, "gemma-7b")
    convert = built(gemma, "0.17", "--quantization", "int8_wo")["build"][-2]
    assert "--use-weight-only-with-precision int8" in convert["command"]


def test_the_memory_of_quantized_weights(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "Llama-3.1-8B")
    memory = ("--gpu-memory", 80, "--max-seq-len", 4096)
    plain = built(folder, "0.17", *memory)["memory"]
    eight = built(folder, "0.17", *memory, "--quantization", "fp8")["memory"]
    four = built(folder, "0.17", *memory, "--quantization", "int4_awq")["memory"]
    assert plain["weights"] == 2 * eight["weights"] == 4 * four["weights"] == 2 * 8_030_261_248
    assert plain["kv_bytes_per_token"] == 2 * eight["kv_bytes_per_token"]
    assert plain["kv_bytes_per_token"] == four["kv_bytes_per_token"]


def test_the_python_program(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "Llama-3.1-8B")
    program = built(folder, "1.2", "--world-size", 4, "--pp", 2, *LIMITS)["python"]
    names: dict[str, Any] = {}
    code = program.replace('if __name__ == "__main__":', "if True:")
    compile(code, "build.py", "exec")
    for line in code.splitlines():
        key, _, value = line.strip().rstrip(",").partition("=")
        names[key] = value
    assert names["tensor_parallel_size"] == names["pipeline_parallel_size"] == "2"
    assert names["build_config"] == "BuildConfig(max_batch_size=16, max_seq_len=1024)"
    assert built(folder, "0.17")["python"] is None


def served(lines: list[dict[str, Any]]) -> list[list[str]]:
    """The arguments of our own commands."""
    ours = ("trt-tokenizers", "fill_template", "launch_server")
    return [line["arguments"] for line in lines if line["arguments"][0] in ours]


def engine_folder(folder: Path, version: str) -> None:
    """What the build leaves behind, without an engine in it."""
    folder.mkdir(parents=True)
    limits = {"max_batch_size": 16, "max_input_len": 512, "max_output_len": 512}
    if version == "0.5":
        names = {"name": "llama", "precision": "bfloat16", "tensor_parallel": 2}
        config: dict[str, Any] = {"builder_config": {**names, "vocab_size": 32000, **limits}}
        files = [f"llama_bfloat16_tp2_rank{rank}.engine" for rank in (0, 1)]
    else:
        mapping = {"mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1}}
        config = {
            "version": facts.find_release(version).version,
            "pretrained_config": {**mapping, "vocab_size": 32000},
            "build_config": {"max_batch_size": 16, "max_seq_len": 1024},
        }
        files = ["rank0.engine", "rank1.engine"]
    (folder / "config.json").write_text(json.dumps(config))
    for name in files:
        (folder / name).write_bytes(b"engine")


@pytest.mark.parametrize("version", ["0.5", "0.12", "0.17", "1.0", "1.2"])
def test_the_lines_after_the_build_work(tmp_path: Path, bpe_dir: Path, version: str) -> None:
    folder = model_folder(tmp_path, "Llama-2-7b-hf")
    for file in bpe_dir.iterdir():
        shutil.copy(file, folder)
    output = ("--output-dir", tmp_path / "engine")
    lines = served(built(folder, version, "--world-size", 2, *LIMITS, *output)["serve"])
    assert [line[:2] for line in lines[:-1]] == [
        ["trt-tokenizers", "generate"],
        ["trt-tokenizers", "check"],
    ]
    engine_folder(tmp_path / "engine", version)
    for line in lines[:-1]:
        done = CliRunner().invoke(main, line[1:])
        assert done.exit_code == 0, done.output
    options = launch_server.make_context("launch_server", lines[-1][1:]).params
    assert options["world_size"] == 2
    assert options["model_repo"] == tmp_path / "model_repo"
    config = parse_config((tmp_path / "model_repo/tensorrt_llm/config.pbtxt").read_text())
    assert config.max_batch_size == 16


@pytest.mark.parametrize("version", ["0.7", "0.8", "0.10"])
def test_nvidias_templates_are_filled_where_the_tensors_are_not_known(
    tmp_path: Path, bpe_dir: Path, version: str
) -> None:
    """The templates of these versions were not read; those of 0.11 take their place."""
    folder = model_folder(tmp_path, "Llama-2-7b-hf")
    for file in bpe_dir.iterdir():
        shutil.copy(file, folder)
    output = ("--output-dir", tmp_path / "engine")
    found = built(folder, version, "--world-size", 2, *LIMITS, *output)
    clones = [line["arguments"] for line in found["build"] if line["arguments"][0] == "git"]
    assert [words[5] for words in clones] == [f"v{version}.0"] * 2
    copy, remove, *steps = found["serve"]
    source, target = copy["arguments"][2:]
    shutil.copytree(templates(Path(source), "0.11"), target)
    shutil.rmtree(remove["arguments"][-1])
    engine_folder(tmp_path / "engine", version)
    for line in served(steps)[:-1]:
        command = main if line[0] == "trt-tokenizers" else fill_template
        done = CliRunner().invoke(command, line[1:])
        assert done.exit_code == 0, f"{line}: {done.output}"
