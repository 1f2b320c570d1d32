"""The words for true and false mean the same in every place that reads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trt_tokenizers.errors import RepositoryError, SettingsError
from trt_tokenizers.repository.ensemble import derived_parameters
from trt_tokenizers.repository.nvidia_settings import NVIDIA_SETTINGS
from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.repository.placeholders import fill
from trt_tokenizers.repository.tensorrtllm_backend import render_tensorrtllm
from trt_tokenizers.settings import parse
from trt_tokenizers.tokenizers.base import TokenizerSettings

ROOT = Path(__file__).parents[3]
TRUE = ("true", "True", "TRUE", "t", "T", "yes", "Yes", "y", "on", "1", " true ")
FALSE = ("false", "False", "FALSE", "f", "F", "no", "No", "n", "off", "0")
WORDS = [*((word, True) for word in TRUE), *((word, False) for word in FALSE)]
each_word = pytest.mark.parametrize(("word", "meaning"), WORDS)


@each_word
def test_a_setting_of_ours(word: str, meaning: bool, tmp_path: Path) -> None:
    raw = {"tokenizer_dir": str(tmp_path), "add_bos": word}
    parsed = parse(TokenizerSettings, raw, "x")
    assert parsed.add_bos is meaning


@each_word
def test_a_setting_of_nvidia(word: str, meaning: bool) -> None:
    assert NVIDIA_SETTINGS["decoupled_mode"].problem(word) is None


@each_word
def test_a_placeholder(word: str, meaning: bool) -> None:
    """Outside quotes, where Triton's text format knows fewer words, and inside."""
    text = (
        "model_transaction_policy { decoupled: ${decoupled_mode} }\n"
        'parameters { key: "a" value { string_value: "${enable_trt_overlap}" } }\n'
    )
    config = parse_config(fill(text, {"decoupled_mode": word, "enable_trt_overlap": word}, "x"))
    assert config.model_transaction_policy.decoupled is meaning
    # The C++ backend reads true, True and TRUE, false, False and FALSE, 1 and 0, no other word.
    assert config.parameters["a"].string_value in {str(meaning), str(meaning).lower()}


@each_word
def test_a_generated_engine(word: str, meaning: bool, bpe_dir: Path) -> None:
    values = {"decoupled_mode": word, "enable_chunked_context": word, "tokenizer_dir": str(bpe_dir)}
    text = render_tensorrtllm(Path("/e"), "1.2", values)["tensorrt_llm/config.pbtxt"]
    config = parse_config(text)
    assert config.model_transaction_policy.decoupled is meaning
    written = config.parameters["enable_chunked_context"].string_value
    assert written in {str(meaning), str(meaning).lower()}


@each_word
def test_a_parameter_of_an_adopted_engine(word: str, meaning: bool) -> None:
    engine = parse_config(
        f'parameters {{ key: "exclude_input_in_output" value {{ string_value: "{word}" }} }}'
    )
    derived = derived_parameters(engine)
    assert derived["exclude_input_in_output"] == str(meaning).lower()
    assert derived["prompt_in_output"] == str(not meaning).lower()


@pytest.mark.parametrize("word", ["maybe", "2", "wahr", "tru"])
def test_another_word_is_refused(word: str) -> None:
    with pytest.raises(SettingsError, match=f"'add_bos' is '{word}'; expected true or false"):
        parse(TokenizerSettings, {"tokenizer_dir": "/t", "add_bos": word}, "x")
    for values in ({"decoupled_mode": word}, {"enable_trt_overlap": word}):
        with pytest.raises(RepositoryError, match=f"is '{word}'; it must be true or false"):
            render_tensorrtllm(Path("/e"), "1.2", values)
        (name,) = values
        with pytest.raises(
            RepositoryError, match=f"x:1: {name} is '{word}'; it must be true or false"
        ):
            fill(f'name: "${{{name}}}"', values, "x")
    engine = parse_config(
        f'parameters {{ key: "exclude_input_in_output" value {{ string_value: "{word}" }} }}'
    )
    assert derived_parameters(engine)["exclude_input_in_output"] == "false", "the backend's default"


def test_the_script_without_a_schema_writes_a_word_of_triton(tmp_path: Path) -> None:
    file = tmp_path / "config.pbtxt"
    file.write_text("model_transaction_policy { decoupled: ${decoupled_mode} }\n")
    script = [sys.executable, "-I", "-S", str(ROOT / "scripts/fill_template.py")]
    done = subprocess.run(
        [*script, str(file), "decoupled_mode:yes"],
        capture_output=True, text=True, check=True, env={},
    )  # fmt: skip
    assert done.stdout == "model_transaction_policy { decoupled: true }\n"
