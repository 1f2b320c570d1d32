"""fill_template accepts the old command's lines and refuses errors that it ignored."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from trt_tokenizers.cli.main import fill_template as command
from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.check import check
from trt_tokenizers.repository.nvidia_settings import NVIDIA_SETTINGS
from trt_tokenizers.repository.pbtxt import format_config, parse_config
from trt_tokenizers.repository.placeholders import fill, fill_template
from trt_tokenizers.settings import PLACEHOLDER

ROOT = Path(__file__).parents[3]
OLD = 'max_batch_size: ${size}\nparameters { key: "a" value: { string_value: "${a}" } }\n'

#: A repository of TensorRT-LLM 0.6 to 0.10, and three commands that fill it.
TEMPLATES = {
    "tensorrt_llm": """name: "tensorrt_llm"
backend: "tensorrtllm"
max_batch_size: 128
model_transaction_policy { decoupled: ${decoupled_mode} }
"""
    + "".join(
        f'parameters: {{\n  key: "{key}"\n  value: {{\n    string_value: "{value}"\n  }}\n}}\n'
        for key, value in {
            "max_beam_width": "1",
            "gpt_model_type": "${batching_strategy}",
            "gpt_model_path": "${engine_dir}",
            "max_tokens_in_paged_kv_cache": "${max_tokens_in_paged_kv_cache}",
            "max_kv_cache_length": "${max_kv_cache_length}",
            "batch_scheduler_policy": "${batch_scheduler_policy}",
            "kv_cache_free_gpu_mem_fraction": "${kv_cache_free_gpu_mem_fraction}",
            "max_num_sequences": "${max_num_sequences}",
            "enable_trt_overlap": "${enable_trt_overlap}",
            "exclude_input_in_output": "${exclude_input_in_output}",
        }.items()
    ),
    "preprocessing": """name: "preprocessing"
backend: "python"
parameters { key: "tokenizer_dir" value: { string_value: "${tokenizer_dir}" } }
parameters { key: "tokenizer_type" value: { string_value: "${tokenizer_type}" } }
instance_group [ { count: 1 kind: KIND_CPU } ]
""",
    "postprocessing": """name: "postprocessing"
backend: "python"
parameters { key: "tokenizer_dir" value: { string_value: "${tokenizer_dir}" } }
parameters { key: "tokenizer_type" value: { string_value: "${tokenizer_type}" } }
""",
}
COMMANDS = {
    "tensorrt_llm": "engine_dir:/models/Llama-2-7b/engines/bf16/1-gpu,decoupled_mode:True,"
    "batching_strategy:inflight_fused_batching,batch_scheduler_policy:guaranteed_completion,"
    "kv_cache_free_gpu_mem_fraction:0.2,max_num_sequences:4,max_tokens_in_paged_kv_cache:,"
    "max_kv_cache_length:,enable_trt_overlap:False,exclude_input_in_output:",
    "preprocessing": "tokenizer_dir:/models/Llama-2-7b,tokenizer_type:llama",
    "postprocessing": "tokenizer_dir:/models/Llama-2-7b,tokenizer_type:llama",
}


def old_fill_template(text: str, substitutions: str) -> str:
    for pair in substitutions.split(","):
        key, value = pair.split(":")
        text = text.replace(f"${{{key}}}", value)
    return text


@pytest.mark.parametrize("model", COMMANDS)
@pytest.mark.parametrize("installed", [True, False])
def test_the_old_commands_give_the_old_file(model: str, installed: bool, tmp_path: Path) -> None:
    """With the command, and with the script in an environment without packages."""
    file = tmp_path / "config.pbtxt"
    file.write_text(TEMPLATES[model])
    file.chmod(0o640)
    if installed:
        done = CliRunner().invoke(command, ["--in_place", str(file), COMMANDS[model]])
        assert done.exit_code == 0, done.output
    else:
        script = ROOT / "scripts" / "fill_template.py"
        alone = [sys.executable, "-I", "-S", str(script), "-i", str(file), COMMANDS[model]]
        shown = subprocess.run(alone, capture_output=True, text=True, check=True, env={})
        assert "google.protobuf, tritonclient.grpc; pip install" in shown.stderr
    assert file.read_text() == old_fill_template(TEMPLATES[model], COMMANDS[model])
    assert file.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["config.pbtxt"]
    parse_config(file.read_text())


def test_the_script_refuses_without_a_schema(tmp_path: Path) -> None:
    file = tmp_path / "config.pbtxt"
    file.write_text("max_batch_size: ${triton_max_batch_size}\n")
    script = ROOT / "scripts" / "fill_template.py"
    for value in ("many", "4 name: 3"):
        alone = [
            sys.executable,
            "-I",
            "-S",
            str(script),
            str(file),
            f"triton_max_batch_size:{value}",
        ]
        done = subprocess.run(alone, capture_output=True, text=True, check=False, env={})
        assert done.returncode == 1
        assert f"error: {file}:1: triton_max_batch_size is '{value}'" in done.stderr
        assert done.stdout == ""


def test_a_link_stays_a_link_and_a_refused_file_does_not_change(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(OLD)
    link = tmp_path / "link"
    link.symlink_to("real")
    assert CliRunner().invoke(command, ["-i", str(link), "size:4 x"]).exit_code == 1
    assert link.read_text() == OLD
    assert CliRunner().invoke(command, ["-i", str(link), "size:4,a:b"]).exit_code == 0
    assert os.path.islink(link)  # noqa: PTH114
    assert parse_config((tmp_path / "real").read_text()).max_batch_size == 4


@pytest.mark.parametrize(
    ("pairs", "value"),
    [
        ("a:", ""),
        (r"a:/x:y\,z", "/x:y,z"),
        ("a:http://host:80/p", "http://host:80/p"),
        (r"a:C\:\\d\w", r"C:\d\w"),
        ("a: b ", " b "),
        ("a:\"quoted\" 'too'", "\"quoted\" 'too'"),
        ("a:[[0],\\,[0\\,1]]", None),
        (r"a:[[0]\,[0\,1]]", "[[0],[0,1]]"),
    ],
)
def test_values(pairs: str, value: str | None) -> None:
    if value is None:
        with pytest.raises(RepositoryError, match="is not key:value"):
            fill_template(OLD, f"size:8,{pairs}", "x")
    else:
        config = parse_config(fill_template(OLD, f"size:8,{pairs}", "x"))
        assert (config.max_batch_size, config.parameters["a"].string_value) == (8, value)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("size:8,a", "'a' is not key:value"),
        ("size:8,b:1", "x has no placeholder 'b'; remove it"),
        ("a:1,siez:8", r"no placeholder 'siez' \(did you mean 'size'"),
        ("size:,a:1", "x:1: size is empty, outside quotes"),
        ("size:8 name: x,a:1", "x:1: size is '8 name: x', outside quotes"),
        ("size:010,a:1", "x:1: size is '010'"),
        ("size:many,a:1", "x: not a Triton model configuration: 1:17"),
        ("size:8,a:${b}", r"x:2: a is '\$\{b\}', a placeholder; give a value"),
        ("size:8,size:9,a:1", "'size' is given twice, as '8' and as '9'"),
    ],
)
def test_errors_that_the_old_command_ignored_are_refused(pairs: str, message: str) -> None:
    with pytest.raises(RepositoryError, match=message):
        fill_template(OLD, pairs, "x")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kv_cache_free_gpu_mem_fraction", "-", "a number"),
        ("max_beam_width", "1.5", "a whole number"),
        ("max_attention_window_size", "1,x", "comma-separated whole numbers"),
        ("decoupled_mode", "maybe", "true or false"),
        ("logits_datatype", "FP32", "a Triton data type such as TYPE_FP32"),
        ("batch_scheduler_policy", "guaranteed", "one of guaranteed_no_evict"),
    ],
)
def test_known_keys_have_types(name: str, value: str, message: str) -> None:
    with pytest.raises(RepositoryError, match=f"x:1: {name} is '{value}'; it must be {message}"):
        fill(f'name: "${{{name}}}"', {name: value}, "x")


def test_empty_outside_quotes_is_the_default() -> None:
    text = (
        "max_batch_size: ${triton_max_batch_size}\n"
        "model_transaction_policy { decoupled: ${decoupled_mode} }\n"
        "dynamic_batching { max_queue_delay_microseconds: ${max_queue_delay_microseconds} }\n"
    )
    keys = "triton_max_batch_size:,decoupled_mode:,max_queue_delay_microseconds:"
    config = parse_config(fill_template(text, keys, "x"))
    assert (config.max_batch_size, config.model_transaction_policy.decoupled) == (64, True)


def test_an_invalid_placeholder_name_is_refused() -> None:
    with pytest.raises(RepositoryError, match=r"x:2: '\$\{engine dir\}\"' is not a placeholder"):
        fill('# it\'s "odd" #\nname: "${engine dir}"\n', {}, "x")


ANY = st.text(st.characters(exclude_categories=["Cs"]))


def test_what_is_not_given_stays_and_other_templates_keys_are_ignored() -> None:
    """As with NVIDIA's script; a key that no template has is a typing error."""
    notes: list[str] = []
    once = fill_template(OLD, "a:1,max_beam_width:1", "x", note=notes.append)
    assert once == OLD.replace("${a}", "1")
    assert notes == [
        "x has no placeholder max_beam_width; ignored",
        "x: fill size as well; Triton cannot read the file before",
    ]
    notes.clear()
    other = fill_template(OLD, "size:4", "x", note=notes.append)
    assert parse_config(other).parameters["a"].string_value == "${a}"
    assert notes == ["x: 1 settings without a value have their defaults"]


def test_queue_values_are_0_as_with_nvidias_script() -> None:
    text = (
        "dynamic_batching { max_queue_delay_microseconds: ${max_queue_delay_microseconds} "
        "default_queue_policy: { max_queue_size: ${max_queue_size} } }"
    )
    config = parse_config(fill_template(text, "", "x"))
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 0


@pytest.mark.parametrize("installed", [True, False])
def test_a_named_pipe_is_refused_at_once(installed: bool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    script = str(ROOT / "scripts" / "fill_template.py")
    pipe = str(tmp_path / "pipe")
    if installed:
        done = CliRunner().invoke(command, [pipe, "a:b"])
        code, error = done.exit_code, done.stderr
    else:
        shown = subprocess.run([sys.executable, script, pipe, "a:b"], capture_output=True,
                               text=True, check=False, timeout=20)  # fmt: skip
        code, error = shown.returncode, shown.stderr
    assert code == 1
    assert f"error: {pipe} cannot be filled: is not a regular file; correct the path" in error


#: The commands of TensorRT-LLM 0.6 to 0.10, as an old recipe gives them.
RECIPE = {
    "tensorrt_llm": "triton_max_batch_size:128,decoupled_mode:true,"
    "max_queue_delay_microseconds:100,max_beam_width:1,batching_strategy:inflight_fused_batching,"
    "engine_dir:{engine},max_tokens_in_paged_kv_cache:,max_kv_cache_length:,"
    "batch_scheduler_policy:guaranteed_completion,kv_cache_free_gpu_mem_fraction:0.2,"
    "max_num_sequences:4,enable_trt_overlap:true,exclude_input_in_output:",
    "preprocessing": "tokenizer_type:llama,tokenizer_dir:{tokenizer}",
    "postprocessing": "tokenizer_type:llama,tokenizer_dir:{tokenizer}",
}


@pytest.mark.parametrize(
    ("order", "version"),
    [
        *((order, "") for order in itertools.permutations(RECIPE)),
        *((tuple(RECIPE), version) for version in ("1.2.0", "0.11.0", "0.8.0")),
    ],
)
def test_the_original_recipe_on_our_skeleton(
    order: tuple[str, ...], version: str, tmp_path: Path
) -> None:
    """The result is a repository of the C++ backend; only tokenizer and engine are missing."""
    repository = tmp_path / "repo"
    shutil.copytree(ROOT / "model_repo_skeleton", repository)
    engine = repository / "tensorrt_llm" / "1"
    if version:
        (engine / "config.json").write_text(
            json.dumps({"version": version, "pretrained_config": {}, "build_config": {}})
        )
        (engine / "rank0.engine").write_bytes(b"")
    for model in order:
        pairs = RECIPE[model].format(engine=engine, tokenizer="/llama-tokenizer")
        file = str(repository / model / "config.pbtxt")
        done = CliRunner().invoke(command, ["-i", file, pairs])
        assert done.exit_code == 0, done.output
    made = {path.parent.name: parse_config(path.read_text())
            for path in repository.glob("*/config.pbtxt")}  # fmt: skip
    llm = made["tensorrt_llm"]
    assert llm.backend == "tensorrtllm"
    assert {config.max_batch_size for config in made.values()} == {128}
    assert llm.model_transaction_policy.decoupled
    assert llm.dynamic_batching.max_queue_delay_microseconds == 100
    values = {key: value.string_value for key, value in llm.parameters.items()}
    assert values["gpt_model_path"] == str(engine)
    assert values["gpt_model_type"] == "inflight_fused_batching"
    assert values["batch_scheduler_policy"] == "guaranteed_completion"
    assert values["kv_cache_free_gpu_mem_fraction"] == "0.2"
    assert ("seed" if version == "1.2.0" else "random_seed") in {t.name for t in llm.input}
    for model in ("preprocessing", "postprocessing"):
        there = made[model].parameters
        assert there["tokenizer_dir"].string_value == "/llama-tokenizer"
        assert there["tokenizer_type"].string_value == "llama"
    problems = [problem.what for problem in check(repository)]
    missing = "tokenizer_dir '/llama-tokenizer' is not a folder"
    assert [missing in what for what in problems[:2]] == [True, True], problems
    assert len(problems) == (2 if version else 3), problems
    assert version or "config.json cannot be read" in problems[2]


@given(value=ANY)
def test_any_value_comes_back_exactly(value: str) -> None:
    text = """# '${a}' #\nparameters { key: "a" value: { string_value: "<${a}>" } } name: '${a}'"""
    if PLACEHOLDER.fullmatch(value):
        with pytest.raises(RepositoryError, match="a placeholder; give a value"):
            fill(text, {"a": value}, "x")
        return
    assert not PLACEHOLDER.search(fill(text, {"a": value}, "x"))
    config = parse_config(fill(text, {"a": value}, "x"))
    assert config.parameters["a"].string_value == f"<{value}>"
    assert config.name == value
    assert len(config.ListFields()) == 1 + bool(value)


@given(value=ANY | st.integers(-(2**33), 2**33).map(str) | st.from_regex(r"[-+ 0-9xe.]{1,9}"))
def test_any_value_outside_quotes_is_that_number_or_refused(value: str) -> None:
    try:
        filled = fill('name: "n" max_batch_size: ${n}', {"n": value}, "x")
    except RepositoryError:
        return
    config = parse_config(filled)
    assert str(config.max_batch_size) == value.strip()
    assert len(config.ListFields()) == 2 - (config.max_batch_size == 0)


@given(values=st.dictionaries(st.from_regex(r"\A[a-z_]{1,8}\Z"), ANY, min_size=1))
def test_any_pairs_come_back_exactly(values: dict[str, str]) -> None:
    text = "".join(
        f'parameters {{ key: "{k}" value {{ string_value: "${{{k}}}" }} }}\n' for k in values
    )
    pairs = ",".join(
        f"{k}:" + v.replace("\\", "\\\\").replace(",", "\\,") for k, v in values.items()
    )
    if any(name in NVIDIA_SETTINGS for name in values):  # it has a type
        return
    if any(PLACEHOLDER.fullmatch(value) for value in values.values()):
        return
    config = parse_config(fill_template(text, pairs, "x"))
    assert {k: v.string_value for k, v in config.parameters.items()} == values


@given(value=ANY, number=st.integers(0, 2**31 - 1))
def test_format_and_parse_are_inverse(value: str, number: int) -> None:
    made = parse_config("")
    made.name = value
    made.max_batch_size = number
    made.parameters[value].string_value = value
    made.input.add(name=value, data_type="TYPE_INT32", dims=[-1, number], optional=True)
    made.input[0].reshape.shape[:] = []
    made.instance_group.add(count=2, kind="KIND_CPU", gpus=[0, 1])
    made.dynamic_batching.preferred_batch_size[:] = [4, 8]
    step = made.ensemble_scheduling.step.add(model_name=value, model_version=-1)
    step.input_map[value], step.output_map["b"] = "x", value
    text = format_config(made, comment="made")
    assert text.startswith("# made\n")
    assert parse_config(text) == made
