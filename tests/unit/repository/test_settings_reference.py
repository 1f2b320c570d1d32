"""The catalogue of settings: complete, and what the documentation says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from trt_tokenizers.cli.main import main
from trt_tokenizers.repository import settings_reference
from trt_tokenizers.repository.nvidia_settings import ENGINE_PARAMETERS, FIXED, SURVEYED, UPSTREAM
from trt_tokenizers.repository.placeholders import PLACEHOLDER
from trt_tokenizers.repository.schemas import layout

ROOT = Path(__file__).parents[3]
CONTRACTS = {version: layout(version) for version in SURVEYED}


@pytest.mark.parametrize("version", SURVEYED)
def test_every_key_of_upstreams_templates_is_known(version: str) -> None:
    for model, contract in CONTRACTS[version].items():
        for name in contract.get("placeholders", {}):
            assert name in UPSTREAM, f"{version}, {model}: {name}"
        if model == "tensorrt_llm":
            assert set(contract["parameters"]) <= ENGINE_PARAMETERS


@pytest.mark.parametrize("name", UPSTREAM)
def test_versions_are_those_of_the_templates(name: str) -> None:
    setting = UPSTREAM[name]
    having = [
        version
        for version, models in CONTRACTS.items()
        if any(name in contract.get("placeholders", {}) for contract in models.values())
        # 1.2 has the BLS model too, which the contract leaves out.
        or (version == "1.2" and setting.models == ("tensorrt_llm_bls",))
    ]
    if having:
        assert (setting.since, setting.until) == (having[0], having[-1])
    else:
        assert setting.since not in SURVEYED, "between the surveyed ones"


def test_every_placeholder_of_the_skeleton_is_there() -> None:
    known = {setting.name for setting in settings_reference.catalogue()}
    for file in (ROOT / "model_repo_skeleton").glob("*/config.pbtxt"):
        assert set(PLACEHOLDER.findall(file.read_text())) <= known, file


def test_defaults_are_of_their_types_and_all_is_said() -> None:
    for setting in settings_reference.catalogue():
        assert setting.problem(setting.default) is None
        assert setting.meaning
        assert setting.models
    assert not set(FIXED) & set(UPSTREAM)


def test_the_command_lists_finds_and_refuses() -> None:
    run = CliRunner().invoke
    text = run(main, ["settings"]).output
    assert "max_beam_width  (int, default 1)  [TensorRT-LLM 0.11 … 1.2]" in text
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
    its = CONTRACTS[version]["tensorrt_llm"]
    return {line.split()[0]: line.split()[1:3] for line in (*its["inputs"], *its["outputs"])}


@pytest.mark.parametrize(
    ("older", "newer", "differ"),
    [
        ("0.5", "0.11", {"request_output_len", "end_id", "pad_id", "beam_width", "runtime_top_k",
                         "min_length"}),
        ("0.11", "0.17", set()),
        ("0.17", "1.2", {"min_length", "random_seed", "return_kv_cache_reuse_stats"}),
    ],
)  # fmt: skip
def test_what_a_version_between_can_be_given(older: str, newer: str, differ: set[str]) -> None:
    """docs/migration.md says it: what both neighbours have alike, those between had too."""
    before, after = engine_tensors(older), engine_tensors(newer)
    assert {name for name in before if before[name] != after.get(name)} == differ
