"""The settings reference: it is complete, and the documentation agrees with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from trt_tokenizers.cli.main import main
from trt_tokenizers.repository import settings_reference
from trt_tokenizers.repository.nvidia_settings import ENGINE_PARAMETERS, NVIDIA_SETTINGS
from trt_tokenizers.repository.schemas import VERSIONS, schema
from trt_tokenizers.settings import PLACEHOLDER

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_in_nvidias_templates_is_known(version: str) -> None:
    for model, contents in schema(version).items():
        for name in contents.get("placeholders", {}):
            assert name in NVIDIA_SETTINGS, f"{version}, {model}: {name}"
        if model == "tensorrt_llm":
            assert set(contents["parameters"]) <= ENGINE_PARAMETERS.keys()


def test_every_setting_of_nvidia_is_in_a_template() -> None:
    """A misspelt name would have no version."""
    assert [name for name, setting in NVIDIA_SETTINGS.items() if not setting.since] == []
    names = ("decoupled_mode", "max_num_sequences", "medusa_choices", "lora_prefetch_dir")
    assert [(NVIDIA_SETTINGS[name].since, NVIDIA_SETTINGS[name].until) for name in names] == [
        ("0.5", VERSIONS[-1]), ("0.5", "0.5"), ("0.11", VERSIONS[-1]), ("1.2", VERSIONS[-1]),
    ]  # fmt: skip


def test_every_placeholder_of_the_skeleton_is_documented() -> None:
    known = {setting.name for setting in settings_reference.all_settings()}
    for file in (ROOT / "model_repo_skeleton").glob("*/config.pbtxt"):
        assert set(PLACEHOLDER.findall(file.read_text())) <= known, file


def test_every_default_is_valid() -> None:
    for setting in settings_reference.all_settings():
        assert setting.problem(setting.default) is None


def test_the_command_lists_finds_and_refuses() -> None:
    run = CliRunner().invoke
    text = run(main, ["settings"]).output
    assert f"max_beam_width  (int, default 1)  [TensorRT-LLM 0.11 … {VERSIONS[-1]}]" in text
    found = json.loads(run(main, ["settings", "--json", "gpt_model_path", "stream_key"]).output)
    assert [(s["name"], s["parameter"]) for s in found] == [
        ("engine_dir", "gpt_model_path"),
        ("stream_key", "stream_key"),
    ]
    assert found[1]["models"] == ["preprocessing", "postprocessing"]
    refused = run(main, ["settings", "max_beam_widht"])
    assert refused.exit_code == 2
    assert "unknown setting 'max_beam_widht' (did you mean 'max_beam_width'?)" in refused.output


def test_the_documentation_is_current() -> None:
    made = CliRunner().invoke(main, ["settings", "--markdown"]).output
    assert (ROOT / "docs/configuration.md").read_text() == made, "run the command in its preface"


def engine_tensors(version: str) -> dict[str, list[str]]:
    """Name -> type and dims."""
    engine = schema(version)["tensorrt_llm"]
    return {line.split()[0]: line.split()[1:3] for line in (*engine["inputs"], *engine["outputs"])}


@pytest.mark.parametrize(
    ("older", "newer", "differ"),
    [
        ("0.5", "0.11", {"request_output_len", "end_id", "pad_id", "beam_width", "runtime_top_k",
                         "min_length"}),
        ("0.11", "0.17", set()),
        ("0.17", "1.2", {"min_length", "random_seed", "return_kv_cache_reuse_stats"}),
    ],
)  # fmt: skip
def test_tensors_that_changed_between_versions(older: str, newer: str, differ: set[str]) -> None:
    """docs/migration.md relies on it: a tensor that both have alike, the versions between have."""
    before, after = engine_tensors(older), engine_tensors(newer)
    assert {name for name in before if before[name] != after.get(name)} == differ
