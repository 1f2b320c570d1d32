"""What cannot be built is refused in one line that names the fix, and the table is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from models_to_build import model_folder
from trt_tokenizers.cli.main import main
from trt_tokenizers.repository.builds import facts
from trt_tokenizers.repository.schemas import minor_version

TIED = {"tie_word_embeddings": True}  # Llama-3.2-1B, Qwen2.5-1.5B
AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4}}


@pytest.mark.parametrize(
    ("name", "changes", "version", "more", "code", "message"),
    [
        ("Llama-2-7b-hf", {}, "0.17", "--world-size 3", 1, "cannot be split over a tensor"),
        ("Qwen2.5-7B", {}, "0.17", "--world-size 7", 1, "num_key_value_heads 4"),
        ("Llama-2-7b-hf", {}, "0.10", "--world-size 3 --pp 3", 1, "cannot split 32 layers over"),
        ("Llama-2-7b-hf", {}, "0.17", "--world-size 4 --tp 2 --pp 1", 2, "--tp 2 x --pp 1 is 2"),
        ("Llama-2-7b-hf", {}, "0.17", "--world-size 2 --tp 3", 2, "--tp 3 x --pp 1 is 3"),
        ("gemma-7b", {}, "0.17", "--world-size 2 --pp 2", 1, "no pipeline parallelism for gemma"),
        ("gpt2", {}, "0.9", "--world-size 2 --pp 2", 1, "use 0.10 or newer, or --pp 1"),
        ("Llama-2-7b-hf", {}, "0.12", "--gpu v100", 1, "V100 has no bfloat16; use --dtype float16"),
        ("Llama-2-7b-hf", {}, "0.15", "--gpu V100 --dtype float16", 1, "known to support it"),
        ("Llama-2-7b-hf", {}, "0.16", "--gpu B200", 1, "does not support the GPU B200"),
        ("Llama-2-7b-hf", {}, "0.17", "--gpu A100 --quantization fp8", 1, "A100 has no fp8; use"),
        ("Llama-2-7b-hf", {}, "0.17", "--gpu H100 --quantization nvfp4", 1, "B200, B300"),
        ("Llama-2-7b-hf", {}, "0.17", "--gpu H1000", 2, "known are V100, T4, A100"),
        ("Llama-2-7b-hf", {}, "0.17", "--dtype int8", 2, "--dtype int8 is not a type of weights"),
        ("Llama-2-7b-hf", {}, "0.17", "--quantization fp9", 2, "known are int8_wo, int4_wo"),
        ("Llama-2-7b-hf", {}, "0.10", "--quantization fp8", 1, "is known since TensorRT-LLM 0.11"),
        ("Llama-2-7b-hf", {}, "0.7", "--quantization fp8", 1, "is known since TensorRT-LLM 0.11"),
        ("Qwen2.5-7B", {}, "0.17", "--quantization nvfp4", 1, "no TensorRT-LLM is known to build"),
        ("gpt2", {}, "0.8", "--quantization int8_wo", 1, "known since TensorRT-LLM 0.15"),
        ("Mixtral-8x7B-v0.1", {}, "1.2", "--quantization int4_awq", 1, "choose another"),
        ("gpt2", {}, "0.5", "--max-num-tokens 99", 1, "no known option for --max-num-tokens"),
        ("Llama-2-7b-hf", AWQ, "0.15", "", 1, "0.16 and newer without --quantization are"),
        ("Llama-2-7b-hf", AWQ, "0.17", "--quantization fp8", 1, "quantized already (awq)"),
        ("Mixtral-8x7B-v0.1", AWQ, "1.2", "", 1, "give the folder of the original model"),
        ("Llama-3.1-8B", {}, "0.11", "", 1, "with rope_type llama3; known to build it are 0.12"),
        ("Llama-3.1-8B", TIED, "0.12", "", 1, "tie_word_embeddings; known to build it are 0.15"),
        ("Qwen2.5-7B", TIED, "0.14", "", 1, "tie_word_embeddings; known to build it are 0.15"),
        ("gemma-7b", {}, "0.8", "", 1, "known to build it are 0.9 to 1.2"),
        ("gpt2", {"model_type": "mamba"}, "0.17", "", 1, "no known TensorRT-LLM builds engines"),
        ("gpt2", {"model_type": "gemma-2"}, "0.17", "", 1, "did you mean 'gemma2'?"),
        ("gpt2", {}, "1.3", "", 1, "trt-tokenizers generate --engine llmapi"),
        ("gpt2", {}, "0.7.1", "", 1, "known are 0.7.0"),
        ("gpt2", {}, "0.17", "--output-dir a:b/engine", 2, "a:b/engine has a colon or a comma"),
        ("gpt2", {}, "0.8", "--output-dir a,b/engine", 2, "a,b/engine has a colon or a comma"),
        ("gpt2", {}, "1.0.3.2510", "", 1, "scripts are not known; build with 1.0.0, and serve the"),
        ("gpt2", {}, "0.4", "", 1, "no known container has TensorRT-LLM 0.4"),
        ("gpt2", {}, "newest", "", 1, "is not a version of TensorRT-LLM"),
        ("gpt2", {}, "0.17", "--max-input-len 9 --max-seq-len 9", 2, "leaves no token to generate"),
        ("Mixtral-8x7B-v0.1", {}, "0.17", "--gpu-memory 80 --max-seq-len 4096", 1, "does not fit"),
    ],
)  # fmt: skip
def test_refusals(
    tmp_path: Path,
    name: str,
    changes: dict[str, Any],
    version: str,
    more: str,
    code: int,
    message: str,
) -> None:
    folder = model_folder(tmp_path, name, **changes)
    arguments = ["--model", str(folder), "--tensorrt-llm-version", version, *more.split()]
    done = CliRunner().invoke(main, ["build-command", *arguments])
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr


def test_what_does_not_fit_names_what_would(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "Mixtral-8x7B-v0.1")
    arguments = ["--model", str(folder), "--tensorrt-llm-version", "0.17", "--gpu-memory", "80"]
    done = CliRunner().invoke(main, ["build-command", *arguments, "--max-seq-len", "4096"])
    assert "would fit: tensor parallel 2" in done.stderr
    split = [*arguments, "--max-seq-len", "4096", "--world-size", "2"]
    assert CliRunner().invoke(main, ["build-command", *split]).exit_code == 0


def test_layers_need_not_divide_since_0_11(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "Llama-2-7b-hf")
    arguments = ["--model", str(folder), "--tensorrt-llm-version", "0.11"]
    done = CliRunner().invoke(
        main, ["build-command", *arguments, "--world-size", "3", "--pp", "3", "--json"]
    )
    assert json.loads(done.stdout)["pipeline_parallel"] == 3


@pytest.mark.parametrize(
    ("wanted", "version", "container"),
    [
        ("0.17", "0.17.0.post1", "25.02"),
        ("v0.17.0", "0.17.0", "25.01"),
        ("0.6", "0.6.1", "23.11"),
        ("1.0", "1.0.0", "25.10"),  # 1.0.3.2510 has no public sources
        ("1.2.0", "1.2.0", "26.03"),
        ("1.2", "1.2.1", "26.07"),
    ],
)
def test_the_container_that_fits(wanted: str, version: str, container: str) -> None:
    release = facts.find_release(wanted)
    assert (release.version, release.container) == (version, container)
    assert release.image == f"nvcr.io/nvidia/tritonserver:{container}-trtllm-python-py3"


def test_the_trap_of_23_11_is_printed(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "Llama-2-7b-hf")
    arguments = ["--model", str(folder), "--tensorrt-llm-version", "0.6"]
    done = CliRunner().invoke(main, ["build-command", *arguments])
    assert "# Attention: the container has TensorRT 9.2.0.4 and the wheel" in done.stdout
    assert "tensorrt_llm==0.6.1" in done.stdout


def test_every_row_has_a_source_and_versions_in_order() -> None:
    for table, rows in facts.FACTS.items():
        for row in rows:
            assert table in ("programs", "quantizations") or row["source"], row
            if "until" in row:
                assert minor_version(row["since"]) <= minor_version(row["until"]), row
    order = [minor_version(row.version) for row in facts.RELEASES]
    assert order == sorted(order)
    containers = [row.container for row in facts.RELEASES]
    assert containers == sorted(set(containers))


def test_rows_of_one_option_or_model_do_not_overlap() -> None:
    """A version has at most one row of an option of a program, and one recipe of a model."""
    versions = {".".join(row.version.split(".")[:2]) for row in facts.RELEASES}
    for version in versions:
        options = [
            (program, row.name, row.when)
            for row in facts.OPTIONS
            for program in row.programs
            if facts.valid(row, version)
        ]
        assert len(options) == len(set(options)), version
        models = [
            (each, row.variant)
            for row in facts.RECIPES
            for each in row.model_types
            if facts.valid(row, version)
        ]
        assert len(models) == len(set(models)), version


def test_the_programs_have_options_for_every_quantization_of_a_model() -> None:
    versions = {".".join(row.version.split(".")[:2]) for row in facts.RELEASES}
    for known in facts.FACTS["quantized_models"]:
        needed = {facts.QUANTIZATIONS[name].condition for name in known["quantizations"]} - {""}
        for version in (v for v in versions if facts.at_least(v, known["since"])):
            for recipe in (row for row in facts.RECIPES if facts.valid(row, version)):
                if not set(recipe.model_types) & set(known["model_types"]):
                    continue
                found = {
                    row.when
                    for row in facts.OPTIONS
                    if set(row.programs) & set(recipe.programs) and facts.valid(row, version)
                }
                assert needed <= found, f"{known} {version} {recipe}"


def test_versions_prints_the_table() -> None:
    text = CliRunner().invoke(main, ["versions"]).stdout
    for row in facts.OPTIONS:
        assert any(row.name in line and row.since in line for line in text.splitlines())
    for release in facts.RELEASES:
        assert f"\n{release.version} " in text
    found = json.loads(CliRunner().invoke(main, ["versions", "--json"]).stdout)
    assert found == facts.FACTS
