"""generate: every engine, from options and files; it never leaves half of a repository."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from texts import HARD_TEXTS
from trt_tokenizers.cli.main import main
from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.processing.prompts import PromptMaker, PromptSettings
from trt_tokenizers.processing.request import TextRequest
from trt_tokenizers.repository.adopt import adopt, plan_adoption
from trt_tokenizers.repository.check import check
from trt_tokenizers.repository.check_engines import engine_problems
from trt_tokenizers.repository.generate import GenerateOptions, render, write
from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.repository.schemas import VERSIONS, schema
from trt_tokenizers.settings import parse
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.registry import create
from upstream import tensor, upstream_repository


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["generate", *map(str, arguments)])


def config(repository: Path, model: str) -> Any:
    return parse_config((repository / model / "config.pbtxt").read_text())


def parameters(repository: Path, model: str) -> dict[str, str]:
    return {k: v.string_value for k, v in config(repository, model).parameters.items()}


def engine_folder(folder: Path, version: str, **built: int) -> Path:
    """An engine for two ranks, with empty engine files."""
    folder.mkdir()
    written = {
        "version": version,
        "pretrained_config": {"vocab_size": 600, "mapping": {"tp_size": 2, "world_size": 2}},
        "build_config": {"max_batch_size": 16, "max_seq_len": 2048, **built},
    }
    (folder / "config.json").write_text(json.dumps(written))
    for rank in range(2):
        (folder / f"rank{rank}.engine").touch()
    return folder


def cpp(tmp_path: Path, tokenizer: Path, version: str, *more: object) -> Result:
    engine = tmp_path / "engine"
    if not engine.exists():
        engine_folder(engine, version)
    return run(
        *("--engine", "tensorrtllm", "--engine-dir", engine, "--tokenizer-dir", tokenizer),
        *("--tensorrt-llm-version", version, "--output", tmp_path / "repo", *more),
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_cpp_backend(version: str, bpe_dir: Path, tmp_path: Path) -> None:
    done = cpp(tmp_path, bpe_dir, version)
    assert done.exit_code == 0, done.output
    repository = tmp_path / "repo"
    assert f"launch_server --model-repo {repository} --world-size 2\n" in done.stderr
    assert check(repository) == []
    engine, ensemble = config(repository, "tensorrt_llm"), config(repository, "ensemble")
    its = schema(version)
    for model, there in (("tensorrt_llm", engine), ("ensemble", ensemble)):
        assert {tensor(line)["name"] for line in its[model]["inputs"]} <= {
            t.name for t in there.input
        }
        assert {line.split()[0] for line in its[model]["outputs"]} <= {t.name for t in there.output}
    assert set(engine.parameters) == set(its["tensorrt_llm"]["parameters"])
    assert engine.parameters["gpt_model_path"].string_value == str(tmp_path / "engine")
    assert engine.backend == "tensorrtllm"
    assert engine.model_transaction_policy.decoupled
    assert {engine.max_batch_size, ensemble.max_batch_size} == {16}
    text = parameters(repository, "preprocessing")
    assert (text["max_seq_len"], text["vocab_size"]) == ("2048", "600")
    assert (text["exclude_input_in_output"], text["word_lists"]) == ("true", "list")
    echoes = parameters(repository, "postprocessing")["prompt_in_output"]
    assert echoes == ("true" if version == "0.5" else "false"), "0.5 cannot leave it out"
    # adopt makes the same repository, so it changes nothing.
    assert not plan_adoption(repository).files


def test_the_engine_says_its_version(bpe_dir: Path, tmp_path: Path) -> None:
    engine_folder(tmp_path / "engine", "1.1.0rc4")
    done = cpp(tmp_path, bpe_dir, "")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "repo/tensorrt_llm/config.pbtxt").read_text()
    assert "the tensors of 0.17" in text


@pytest.mark.parametrize(
    ("version", "message"),
    [
        *(
            (
                version,
                f"the tensors of TensorRT-LLM {version} are not known; fill NVIDIA's templates of "
                "that version (fill_template -i FILE KEY:VALUE,…), then run: trt-tokenizers adopt ",
            )
            for version in ("0.6.0", "0.8", "v0.10.0")
        ),
        (
            "99.1.0",
            f"TensorRT-LLM 99.1.0 has no known C++ backend, the newest known one is {VERSIONS[-1]}",
        ),
        ("new", "'new' is not a version of TensorRT-LLM"),
    ],
)
def test_versions_without_a_schema(
    version: str, message: str, bpe_dir: Path, tmp_path: Path
) -> None:
    done = cpp(tmp_path, bpe_dir, version)
    assert done.exit_code == 1
    assert message in done.stderr
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "max_beam_widht=2"), "did you mean 'max_beam_width'?); list all"),
        (("--set", "max_beam_width=two"), "max_beam_width is 'two'; it must be a whole number"),
        (("--set", "eagle_choices=[]"), "unknown value 'eagle_choices' for TensorRT-LLM 0.11"),
        (("--set", "triton_max_batch_size=17"), "was built for at most 16; set it to 16 here"),
        (("--engine-parameter", "a=b"), "are for Python engines"),
        (("--engine-dir", "/nowhere", "--tensorrt-llm-version", ""), "/nowhere does not exist"),
    ],
)
def test_wrong_values_are_refused(
    more: tuple[str, ...], message: str, bpe_dir: Path, tmp_path: Path
) -> None:
    done = cpp(tmp_path, bpe_dir, "0.11", *more)
    assert done.exit_code == 1, done.output
    assert message in done.stderr
    assert not (tmp_path / "repo").exists()


def test_an_engine_on_another_machine(bpe_dir: Path, tmp_path: Path) -> None:
    """The path is the server's; its files cannot be checked here."""
    done = cpp(tmp_path, bpe_dir, "1.2", "--engine-dir", "/engines/e", "--print")
    assert done.exit_code == 0, done.output
    assert 'key: "gpt_model_path" value { string_value: "/engines/e" }' in done.stdout


@pytest.fixture
def model(bpe_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(bpe_dir, folder)
    (folder / "config.json").write_text('{"max_position_embeddings": 64}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_options_override_a_deployment_file(suffix: str, model: Path, tmp_path: Path) -> None:
    wanted = {
        "engine": "transformers", "model": str(model), "output": str(tmp_path / "repo"),
        "template": "llama2", "copy_tokenizer": True,
        "outputs": ["text_output", "finish_reason"],
        "set": {"dtype": "bfloat16", "max_seq_len": 32, "add_bos": False, "device": None},
    }  # fmt: skip
    file = tmp_path / f"deployment.{suffix}"
    if suffix == "json":
        file.write_text(json.dumps(wanted))
    else:
        import yaml

        file.write_text(yaml.safe_dump(wanted))
    flags = ("--template", "chatml", "--set", "max_seq_len=48")
    done = run("--config", file, *flags)
    assert done.exit_code == 0, done.output
    text = parameters(tmp_path / "repo", "preprocessing")
    assert (text["template"], text["max_seq_len"], text["add_bos"]) == ("chatml", "48", "false")
    engine = parameters(tmp_path / "repo", "tensorrt_llm")
    assert (engine["dtype"], engine["device"]) == ("bfloat16", "")
    outputs = [output.name for output in config(tmp_path / "repo", "ensemble").output]
    assert outputs == ["text_output", "finish_reason"]
    again = run("--force", *flags, "--config", file)
    assert again.exit_code == 0, "the order of options does not matter"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: x", "unknown key 'modle' (did you mean 'model'?)"),
        ("force: true", "unknown key 'force'"),
        ("- model", "is not a mapping"),
        ("model: [", "cannot be read: while parsing"),
        ("model: {a: b}", "model must be one value"),
    ],
)
def test_a_deployment_file_that_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(text)
    done = run("--config", tmp_path / "d.yaml")
    assert done.exit_code == 2
    assert message in done.stderr


def test_print_writes_nothing(model: Path, tmp_path: Path) -> None:
    done = run("--model", model, "--output", tmp_path / "repo", "--print", "--copy-tokenizer")
    assert done.exit_code == 0, done.output
    assert "==> preprocessing/config.pbtxt <==\n" in done.stdout
    assert f"preprocessing/1/tokenizer/tokenizer.json <== copy of {model}" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert "--output is missing" in run("--model", model).stderr


def test_a_copied_tokenizer_makes_the_repository_movable(model: Path, tmp_path: Path) -> None:
    done = run("--model", model, "--output", tmp_path / "repo", "--copy-tokenizer")
    assert done.exit_code == 0, done.output
    moved = tmp_path / "elsewhere" / "repo"
    moved.parent.mkdir()
    (tmp_path / "repo").rename(moved)
    copied = {p.name for p in (moved / "preprocessing/1/tokenizer").iterdir()}
    assert copied == {
        "tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json",
    }  # fmt: skip
    for name in copied:
        (model / name).rename(model / f"{name}.gone")
    problems = [str(p) for p in check(moved) if "tensorrt_llm" not in str(p.path)]
    assert problems == [], "it needs no file outside"


#: Type -> the fixtures whose files are in the folder, and the files that the type needs.
COPIED = {
    "auto": (("bpe_dir", "gpt2_dir"), {"tokenizer.json"}),
    "llama": (("sentencepiece_dir", "bpe_dir"), {"tokenizer.model"}),
    "gpt2": (("bpe_dir", "gpt2_dir"), {"vocab.json", "merges.txt"}),
    "sentencepiece": (("bpe_dir", "sentencepiece_dir"), {"tokenizer.model"}),
    "t5": (("sentencepiece_dir", "gpt2_dir"), {"tokenizer.model"}),
    "mistral": (("bpe_dir", "sentencepiece_dir"), {"tokenizer.model"}),
    "tiktoken": (("bpe_dir", "ranks_dir"), {"mini.tiktoken"}),
    "transformers": (("gpt2_dir", "bpe_dir"), {"tokenizer.json", "vocab.json", "merges.txt"}),
}
SMALL = {
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "generation_config.json", "config.json",
}  # fmt: skip


@pytest.mark.parametrize("kind", COPIED)
def test_only_what_the_type_needs_is_copied(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder, (fixtures, wanted) = tmp_path / "model", COPIED[kind]
    for fixture in fixtures:
        shutil.copytree(request.getfixturevalue(fixture), folder, dirs_exist_ok=True)
    weights = {"model.safetensors", "pytorch_model.bin", "model.gguf", "training_args.bin"}
    for name in (*weights, *SMALL):
        if not (folder / name).exists():
            (folder / name).write_text("{}")
    (folder / "config.json").write_text('{"max_position_embeddings": 64}')
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text("{{ tools | length }}")
    pattern = r"\s+|\S+" if kind == "tiktoken" else ""  # this rank file is unknown
    whole = create(TokenizerSettings(str(folder), kind, tiktoken_pattern=pattern))
    done = run(
        *("--model", folder, "--output", tmp_path / "repo"),
        *("--tokenizer-type", kind, "--copy-tokenizer", "--set", f"tiktoken_pattern={pattern}"),
    )
    assert done.exit_code == 0, done.output
    copy = tmp_path / "repo/preprocessing/1/tokenizer"
    assert {path.name for path in copy.iterdir()} == wanted | SMALL | {"additional_chat_templates"}
    shutil.rmtree(folder)
    copied = create(TokenizerSettings(str(copy), kind, tiktoken_pattern=pattern))
    for text in HARD_TEXTS:
        assert copied.encode(text) == whole.encode(text)
    assert copied.chat_template == whole.chat_template
    assert set(copied.chat_template or ()) == {"default", "tool_use"}
    assert copied.eos_ids == whole.eos_ids


@pytest.fixture(scope="module")
def any_model(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(bpe_dir, folder, dirs_exist_ok=True)
    (folder / "config.json").write_text('{"max_position_embeddings": 64}')
    return folder


@settings(max_examples=15)
@given(value=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_value_is_written_exactly_or_refused(any_model: Path, value: str) -> None:
    """For Python engines and the C++ backend, also in the engines' own parameters."""
    cases = (
        ({"engine": "replay:E", "engine_parameters": {"a": value}}, "template", "a"),
        (
            {"engine": "tensorrtllm", "engine_dir": Path("/e"), "version": "1.2",
             "values": {"medusa_choices": value}},
            "template", "medusa_choices",
        ),
    )  # fmt: skip
    for more, text, own in cases:
        try:
            rendered = render(GenerateOptions(model_dir=any_model, template=value, **more))
        except RepositoryError as error:
            assert "placeholder" in str(error)  # noqa: PT017 - one of two correct results
            assert "${" in value
            continue
        for model, name in (("preprocessing", text), ("tensorrt_llm", own)):
            made = parse_config(rendered[f"{model}/config.pbtxt"])
            assert made.parameters[name].string_value == value


def snapshot(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Run *work* in a process that kills itself before its *step*-th change of a file.

    Returns whether it reached that step.
    """
    child = os.fork()
    if child == 0:
        left = step

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            writes = (
                event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_WRONLY
            )
            if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link",
                                   "os.chmod", "ctypes.dlsym"):  # fmt: skip
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("there", [False, True])
def test_killed_at_every_step_of_writing(there: bool, tmp_path: Path) -> None:
    old = {"ensemble/config.pbtxt": "old", "a/1/model.py": "old"} if there else {}
    new = {"ensemble/config.pbtxt": "new", "b/1/model.py": "new", "b/c": "new"}
    states = set()
    for step in range(1, 200):
        output = tmp_path / str(step) / "repo"
        if there:
            write(old, output)
            (output / "mine").write_text("mine")
        killed = killed_at(step, lambda output=output: write(new, output, force=True))
        found = snapshot(output) if output.exists() else {}
        found.pop(".trt-tokenizers", None)
        assert found.pop("mine", "mine") == "mine"
        assert found in (old, new), step
        states.add(tuple(found))
        if not killed:
            break
    assert step > 12
    assert len(states) == 2
    assert found == new


@pytest.mark.parametrize("line", ["/{outside}", "../outside", "a/../../outside", ".", "link/mine"])
def test_a_list_that_names_files_outside_is_refused(line: str, tmp_path: Path) -> None:
    """`.trt-tokenizers` may come from a stranger."""
    output, outside = tmp_path / "repo", tmp_path / "outside"
    write({"a/1/model.py": "old"}, output)
    outside.write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    (output / "link").symlink_to(tmp_path / "folder")
    with (output / ".trt-tokenizers").open("a") as marker:
        marker.write("\n" + line.format(outside=outside))
    before = snapshot(tmp_path)
    with pytest.raises(RepositoryError, match=r"is not a path inside it|is a symbolic link"):
        write({"a/1/model.py": "new"}, output, force=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("link", ["a", "a/1", "b"])
def test_links_in_the_way_are_refused(link: str, tmp_path: Path) -> None:
    output, outside = tmp_path / "repo", tmp_path / "outside"
    write({"a/1/model.py": "old"}, output)
    outside.mkdir()
    if (output / link).exists():
        shutil.rmtree(output / link)
    (output / link).symlink_to(outside)
    with pytest.raises(RepositoryError, match="is a symbolic link"):
        write({"a/1/model.py": "new", "b/1/model.py": "new"}, output, force=True)
    assert list(outside.iterdir()) == []
    assert (output / link).is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside", "repo"]


def test_an_output_that_is_a_link_stays_one(tmp_path: Path) -> None:
    write({"a": "old"}, tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    write({"a": "new"}, tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


def test_one_of_two_writers_wins(any_model: Path, tmp_path: Path) -> None:
    options = ["generate", "--model", str(any_model), "--output", str(tmp_path / "repo")]
    code = f"from trt_tokenizers.cli.main import main; main({options!r})"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 1], said
    assert sum("wrote" in text for text in said) == 1
    refused = [text for text in said if "wrote" not in text]
    assert refused == [f"error: {tmp_path / 'repo'} exists; replace it with --force\n"]
    assert check(tmp_path / "repo") == []


def test_a_template_with_the_form_of_a_placeholder(any_model: Path, tmp_path: Path) -> None:
    """In Jinja text ``${`` is a dollar and a brace, for generate, check and the models."""
    template = "{% for m in messages %}${m} costs ${{ m.content }} ${x}{% endfor %}"
    options = ("--model", any_model, "--output", tmp_path / "repo", "--set")
    done = run(*options, f"template={template}")
    assert done.exit_code == 0, done.output
    assert check(tmp_path / "repo") == []
    assert list(engine_problems(tmp_path / "repo", 1)) == []
    assert parameters(tmp_path / "repo", "preprocessing")["template"] == template
    assert "${" not in (tmp_path / "repo" / "preprocessing" / "config.pbtxt").read_text()
    values = {"tokenizer_dir": str(any_model), "template": template}
    settings = parse(PromptSettings, values, "x")
    request = TextRequest(messages=[b'[{"role": "user", "content": "Hello"}]'])
    (prompt,) = PromptMaker(settings, create(settings)).make(request)
    assert prompt.text == "${m} costs $Hello ${x}"


def test_killed_at_every_step_of_adopting(bpe_dir: Path, tmp_path: Path) -> None:
    first = upstream_repository(tmp_path / "first", "0.17", bpe_dir)
    adoption = plan_adoption(first)
    old = snapshot(first)
    new = {**old, **{path: after for path, (_, after) in adoption.files.items()}}
    states = set()
    for step in range(1, 400):
        repository = tmp_path / str(step) / "repo"
        shutil.copytree(first, repository)
        killed = killed_at(step, lambda repo=repository: adopt(repo, adoption))
        found = snapshot(repository)
        assert found in (old, new), step
        states.add(found == new)
        if not killed:
            break
    assert states == {False, True}
    kept = [p for p in (tmp_path / str(step)).iterdir() if p.name.startswith("repo.before-")]
    assert [snapshot(backup) for backup in kept] == [old]


def llm_model(tmp_path: Path, tokenizer: Path) -> Path:
    model = tmp_path / "model"
    shutil.copytree(tokenizer, model)
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    return model


def test_llmapi_takes_arguments_of_llm(bpe_dir: Path, tmp_path: Path) -> None:
    model = llm_model(tmp_path, bpe_dir)
    given = ["tensor_parallel_size=2", "kv_cache_config.free_gpu_memory_fraction=0.5",
             "dtype=bfloat16", "max_seq_len=1024"]  # fmt: skip
    options = [f"--llm-arg={pair}" for pair in given]
    done = run("--engine", "llmapi", "--model", model, "--output", tmp_path / "repo", *options)
    assert done.exit_code == 0, done.output
    assert check(tmp_path / "repo") == []
    there = parameters(tmp_path / "repo", "tensorrt_llm")
    assert json.loads(there["llm_args"]) == {
        "tensor_parallel_size": 2, "kv_cache_config": {"free_gpu_memory_fraction": 0.5},
        "dtype": "bfloat16",
    }  # fmt: skip
    assert there["max_seq_len"] == "1024"
    assert parameters(tmp_path / "repo", "preprocessing")["max_seq_len"] == "1024"
    file = tmp_path / "deployment.yaml"
    file.write_text(
        f"engine: llmapi\nmodel: {model}\noutput: {tmp_path / 'repo'}\nllm-arg:\n"
        "  tensor_parallel_size: 2\n  max_seq_len: 1024\n  dtype: bfloat16\n"
        "  kv_cache_config: {free_gpu_memory_fraction: 0.5}\n"
    )
    assert run("--config", file, "--force").exit_code == 0
    again = parameters(tmp_path / "repo", "tensorrt_llm")
    assert json.loads(again["llm_args"]) == json.loads(there["llm_args"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--llm-arg=tensor_paralel_size=2",), "(did you mean 'tensor_parallel_size'?)"),
        (("--llm-arg=a=1", "--llm-arg=a.b=2"), "a has a value already"),
        (("--llm-arg=a",), "'a' is not NAME=VALUE"),
        (("--set", "loras=fr=/nowhere"), "there is no folder /nowhere"),
        (("--set", "dtype=bfloat16"), "unknown parameter 'dtype'"),
        (("--engine", "transformers", "--llm-arg=a=1"), "--llm-arg is for the engine llmapi"),
        (("--model", "org/name"), "set max_seq_len, and --tokenizer-dir"),
    ],
)
def test_llmapi_refuses(
    bpe_dir: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    model = llm_model(tmp_path, bpe_dir)
    output = tmp_path / "repo"
    done = run("--engine", "llmapi", "--model", model, "--output", output, *options)
    assert done.exit_code != 0
    assert message in done.output
    assert not output.exists()


def test_a_model_on_the_hub(bpe_dir: Path, tmp_path: Path) -> None:
    done = run(
        *("--engine", "llmapi", "--model", "org/name", "--tokenizer-dir", bpe_dir),
        *("--output", tmp_path / "repo", "--set", "max_seq_len=4096"),
    )
    assert done.exit_code == 0, done.output
    assert parameters(tmp_path / "repo", "tensorrt_llm")["model_dir"] == "org/name"


def test_an_engine_of_another_package_needs_only_an_entry_point(
    any_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings_class gives the parameters to `generate`, `check` and `settings`."""
    (tmp_path / "echo_engine.py").write_text(
        "from dataclasses import dataclass\n"
        "from trt_tokenizers.settings import parse, setting\n"
        "@dataclass(frozen=True)\n"
        "class Settings:\n"
        "    model_dir: str = setting('', 'a folder')\n"
        "    max_seq_len: int = setting(0, 'tokens')\n"
        "    echo_count: int = setting(3, 'number of repetitions')\n"
        "class Echo:\n"
        "    settings_class = Settings\n"
        "    @classmethod\n"
        "    def check(cls, settings):\n"
        "        parse(Settings, settings, 'engine echo')\n"
    )
    info = tmp_path / "echo_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[trt_tokenizers.engines]\necho = echo_engine:Echo\nmute = no_such_module:Mute\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = ("--engine", "echo", "--model", any_model, "--output", tmp_path / "repo", "--force")
    done = run(*options, "--set", "echo_count=5")
    assert done.exit_code == 0, done.output
    assert parameters(tmp_path / "repo", "tensorrt_llm")["echo_count"] == "5"
    wrong = run(*options, "--set", "echo_count=many")
    assert "engine echo: parameter 'echo_count' is 'many'; expected a whole number" in wrong.stderr
    wrong = run(*options, "--set", "echo_cuont=5")
    assert "unknown value 'echo_cuont' (did you mean 'echo_count'?)" in wrong.stderr
    wrong = run(*options, "--engine", "ecko")
    assert "unknown engine 'ecko' (did you mean 'echo'?)" in wrong.stderr
    listed = CliRunner().invoke(main, ["settings", "echo_count"])
    assert "echo_count  (int, default 3)\n    number of repetitions\n" in listed.output
