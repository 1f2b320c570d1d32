"""Engines are checked against ranks and GPUs, with small engine folders of every version."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from trt_tokenizers.memory.gpus import Gpu, host_gpus, visible_gpus
from trt_tokenizers.repository import check_engines
from trt_tokenizers.repository.builds import facts
from trt_tokenizers.repository.check_engines import engine_problems, gpu_problems, python_processes

NEW = {
    "version": "0.17.0",
    "pretrained_config": {"mapping": {"world_size": 4, "tp_size": 2, "pp_size": 2}},
    "build_config": {"max_batch_size": 8},
}
OLD = {
    "builder_config": {
        "name": "llama",
        "precision": "float16",
        "tensor_parallel": 2,
        "max_batch_size": 8,
    },
    "plugin_config": {"paged_kv_cache": True},
}
NEW_FILES = tuple(f"rank{rank}.engine" for rank in range(4))
OLD_FILES = tuple(f"llama_float16_tp2_rank{rank}.engine" for rank in range(2))


def engine(folder: Path, config: object = NEW, files: tuple[str, ...] = NEW_FILES) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in files:
        (folder / name).write_bytes(b"engine")
    return folder


def model(
    repository: Path,
    name: str = "tensorrt_llm",
    backend: str = "tensorrtllm",
    batch: int = 8,
    **parameters: object,
) -> Path:
    file = repository / name / "config.pbtxt"
    file.parent.mkdir(parents=True)
    file.write_text(
        f'name: "{name}"\nbackend: "{backend}"\nmax_batch_size: {batch}\n'
        + "".join(
            f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
            for key, value in parameters.items()
        )
    )
    return file


def found(repository: Path, world_size: int, **more: bool) -> list[str]:
    lines = list(engine_problems(repository, world_size, **more))
    for line in lines:
        assert "\n" not in line
        assert "; " in line, f"no fix: {line}"
    return lines


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.mark.parametrize(
    ("config", "files", "ranks"), [(NEW, NEW_FILES, 4), (OLD, OLD_FILES, 2)], ids=["new", "0.5"]
)
def test_a_good_engine(
    repository: Path, tmp_path: Path, config: object, files: tuple[str, ...], ranks: int
) -> None:
    folder = engine(tmp_path / "engine", config, files)
    model(repository, gpt_model_path=folder, encoder_model_path="${encoder_model_path}")
    model(repository, "preprocessing", "python", 64, gpt_model_path=tmp_path / "unused")
    assert found(repository, ranks) == []


def test_a_world_size_that_the_engine_was_not_built_for(repository: Path, tmp_path: Path) -> None:
    folder = engine(tmp_path / "engine")
    model(repository, gpt_model_path=folder)
    assert found(repository, 2) == [
        f"{folder}/config.json: the engine was built for 4 ranks (tensor parallel 2 x pipeline "
        "parallel 2 x context parallel 1) and --world-size is 2; use --world-size 4, or build the "
        "engine for 2"
    ]
    assert found(repository, 1, multi_model=True) == [], "the server starts them"


def test_context_parallelism_counts(repository: Path, tmp_path: Path) -> None:
    config = {"pretrained_config": {"mapping": {"tp_size": 1, "cp_size": 2}}}
    model(
        repository,
        gpt_model_path=engine(tmp_path / "e", config, ("rank0.engine", "rank1.engine")),
    )
    assert found(repository, 2) == []
    assert "context parallel 2" in found(repository, 1)[0]


def test_pipeline_parallelism_in_the_old_file_names(repository: Path, tmp_path: Path) -> None:
    config = {"builder_config": {**OLD["builder_config"], "pipeline_parallel": 2}}
    files = tuple(f"llama_float16_tp2_pp2_rank{rank}.engine" for rank in range(4))
    model(repository, gpt_model_path=engine(tmp_path / "engine", config, files))
    assert found(repository, 4) == []


def test_missing_engine_files_are_named(repository: Path, tmp_path: Path) -> None:
    new = engine(tmp_path / "new", files=("rank0.engine", "rank2.engine"))
    old = engine(tmp_path / "old", OLD, ())
    model(repository, "a", gpt_model_path=new)
    model(repository, "b", gpt_model_path=old)
    assert found(repository, 1, multi_model=True) == [
        f"{new}: rank1.engine, rank3.engine of the engine's 4 ranks are missing (engine files "
        "there: rank0.engine, rank2.engine); copy the whole folder that the build made, or build "
        "it again",
        f"{old}: llama_float16_tp2_rank0.engine, llama_float16_tp2_rank1.engine of the engine's 2 "
        "ranks are missing (engine files there: none); copy the whole folder that the build made, "
        "or build it again",
    ]


@pytest.mark.parametrize(
    ("config", "files", "ranks"), [(NEW, NEW_FILES, 4), (OLD, OLD_FILES, 2)], ids=["new", "0.5"]
)
def test_a_batch_size_above_the_engines(
    repository: Path, tmp_path: Path, config: object, files: tuple[str, ...], ranks: int
) -> None:
    folder = engine(tmp_path / "engine", config, files)
    file = model(repository, batch=64, gpt_model_path=folder)
    assert found(repository, ranks) == [
        f"{file}: max_batch_size is 64 and the engine in {folder} was built for at most 8; set it "
        "to 8 here, or build the engine with --max_batch_size 64"
    ]


def test_missing_folders(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = model(repository, gpt_model_path="engines/1", encoder_model_path="/no/encoder")
    assert found(repository, 4) == [
        f"{file}: gpt_model_path is 'engines/1' and there is no such folder in the working "
        f"folder {tmp_path}; set it to the absolute path of the engine's folder in the server",
        f"{file}: encoder_model_path is '/no/encoder' and there is no such folder; set it to "
        "the absolute path of the engine's folder in the server",
    ]
    engine(tmp_path / "engines" / "1")
    assert len(found(repository, 4)) == 1, "a relative path starts at the working folder"


def test_a_model_without_an_engine(repository: Path) -> None:
    file = model(repository, backend="python", gpt_model_type="inflight_fused_batching")
    assert found(repository, 1) == [
        f"{file}: gpt_model_path has no value; set it to the absolute path of the engine's folder"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "config.json cannot be read: No such file or directory; give the folder that"),
        ("{", "config.json cannot be read: Expecting"),
        ("[]", "config.json cannot be read: it is not a mapping (JSON object); give the folder"),
        ('{"architecture": "LlamaForCausalLM", "mapping": {}}', "has neither pretrained_config"),
        ('{"builder_config": {"tensor_parallel": "two"}}', "(ValueError: invalid literal"),
    ],
)
def test_folders_that_are_not_engines(
    repository: Path, tmp_path: Path, text: str | None, message: str
) -> None:
    (tmp_path / "engine").mkdir()
    if text is not None:
        (tmp_path / "engine" / "config.json").write_text(text)
    model(repository, gpt_model_path=tmp_path / "engine")
    (line,) = found(repository, 1)
    assert message in line
    assert str(tmp_path / "engine" / "config.json") in line


@pytest.mark.parametrize(
    ("installed", "built", "good"),
    [
        ("0.17.0", "0.17.0", True),
        ("0.17.0+cu124", "0.17.0", True),
        ("0.17.0.post1", "0.17.0", False),
        ("1.0.0", "0.17.0", False),
        ("1.0.0", "", True),
    ],
)
def test_the_engines_version_and_the_installed_one(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    installed: str,
    built: str,
    good: bool,
) -> None:
    info = tmp_path / "site" / f"tensorrt_llm-{installed}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: tensorrt_llm\nVersion: {installed}\n")
    monkeypatch.syspath_prepend(info.parent)
    folder = engine(tmp_path / "engine", {**NEW, "version": built})
    model(repository, gpt_model_path=folder)
    expected = (
        f"{folder}/config.json: the engine was built by TensorRT-LLM {built} and {installed} is "
        "installed here, which cannot load it; use "
        "nvcr.io/nvidia/tritonserver:25.01-trtllm-python-py3, or build it again: trt-tokenizers "
        f"build-command --model FOLDER --tensorrt-llm-version {installed}"
    )
    assert found(repository, 4) == ([] if good else [expected])


def test_an_engine_without_a_version_is_older_than_0_8(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(repository, gpt_model_path=engine(tmp_path / "engine", OLD, OLD_FILES))
    monkeypatch.setattr(check_engines, "host_version", lambda: "0.7.0")
    assert found(repository, 2) == []
    monkeypatch.setattr(check_engines, "host_version", lambda: "0.17.0")
    (line,) = found(repository, 2)
    assert "built by TensorRT-LLM 0.5, 0.6 or 0.7 (its config.json has no version)" in line
    assert "use nvcr.io/nvidia/tritonserver:23.10-trtllm-python-py3 (0.5.0) or " in line
    assert "--tensorrt-llm-version 0.17.0" in line


@pytest.mark.parametrize(
    ("number", "backend", "problem"),
    [
        ("25.01", True, False),
        ("26.07", True, True),
        ("26.07", False, False),  # an image without TensorRT-LLM, such as -py3
        ("99.01", True, False),
        ("", True, False),
    ],
)
def test_the_version_of_nvidias_container_is_known_without_its_python_package(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: str,
    backend: bool,
    problem: bool,
) -> None:
    """Containers before 24.04 have only the C++ backend."""
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", number)
    monkeypatch.setattr(facts, "_BACKEND", tmp_path if backend else tmp_path / "none")
    model(repository, gpt_model_path=engine(tmp_path / "engine"))
    lines = found(repository, 4)
    assert ["1.2.1 is installed here" in line for line in lines] == ([True] if problem else [])


def test_a_host_that_runs_no_engines(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_engines, "host_version", lambda: "1.3.0rc5")
    model(repository, gpt_model_path=engine(tmp_path / "engine"))
    (line,) = found(repository, 4)
    assert line.endswith(
        "25.01-trtllm-python-py3, or serve the model's folder with the engine llmapi"
    )


def test_several_engines_are_each_checked(repository: Path, tmp_path: Path) -> None:
    small = {"pretrained_config": {"mapping": {"tp_size": 1}}}
    model(repository, "large", gpt_model_path=engine(tmp_path / "large"))
    model(repository, "small", gpt_model_path=engine(tmp_path / "small", small, ("rank0.engine",)))
    (line,) = found(repository, 4)
    assert line.startswith(f"{tmp_path}/small/config.json: the engine was built for 1 ranks")
    (line,) = found(repository, 1)
    assert line.startswith(f"{tmp_path}/large/config.json: the engine was built for 4 ranks")


def test_a_configuration_that_does_not_parse(repository: Path) -> None:
    file = model(repository, gpt_model_path="x")
    file.write_text("max_batch_size: many")
    (line,) = found(repository, 1)
    assert line.startswith(f"{file}:1: not a Triton model configuration: 1:17")
    file.write_text("max_batch_size: ${size}")
    assert found(repository, 1) == [
        f"{file}:1: ${{size}} has no value; fill it: fill_template -i {file} size:VALUE"
    ]
    file.write_bytes(b"\xff")
    assert found(repository, 1) == [f"{file}:1: is not UTF-8 (byte 0); restore the file"]
    file.unlink()
    os.mkfifo(file)
    assert found(repository, 1) == [f"{file}:1: is not a regular file; restore the file"]


def test_a_placeholder_inside_quotes_means_not_set(repository: Path) -> None:
    file = model(repository, gpt_model_path="${engine_dir}", max_beam_width="${max_beam_width}")
    file.write_text(f"# ${{comment}}\n{file.read_text()}")
    (line,) = found(repository, 1)
    assert line.startswith(f"{file}: gpt_model_path has no value")


SMOLLM2 = {"num_attention_heads": 9, "num_key_value_heads": 3}


def hugging_face(folder: Path, config: Mapping[str, object] = SMOLLM2) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_heads_that_do_not_divide_by_the_ranks(repository: Path, tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "m")
    file = model(repository, backend="python", engine="transformers", model_dir=folder)
    assert found(repository, 3) == []
    (line,) = found(repository, 2)
    assert line.startswith(f"{folder}/config.json: ")
    for part in ("num_attention_heads 9", "num_key_value_heads 3", "size of 2", "work: 1, 3"):
        assert part in line
    (folder / "config.json").unlink()
    assert found(repository, 2) == [
        f"{folder}/config.json cannot be read: No such file or directory; give model_dir in "
        f"{file} a model's folder"
    ]


# GPUs, as nvidia-smi reports them.


@pytest.fixture
def nvidia_smi(tmp_path: Path) -> dict[str, str]:
    """An environment with an nvidia-smi that reports two GPUs, of 24 GB and 80 GB."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --query-gpu=uuid,memory.total ] || exit 9\n'
        'echo "GPU-aa-1, 24576"\necho "GPU-bb-2, 81920"\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def test_gpus_come_from_nvidia_smi(nvidia_smi: dict[str, str]) -> None:
    assert host_gpus(nvidia_smi) == [Gpu("GPU-aa-1", 24 * 2**30), Gpu("GPU-bb-2", 80 * 2**30)]


def test_without_nvidia_smi_the_gpus_come_from_the_driver(tmp_path: Path) -> None:
    (tmp_path / "0000:3b:00.0").mkdir()
    environ = {"PATH": str(tmp_path / "nothing")}
    assert host_gpus(environ, tmp_path) == [Gpu("0000:3b:00.0")]
    assert host_gpus(environ, tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (None, ["GPU-aa-1", "GPU-bb-2"]),
        ("", []),
        ("-1", []),
        ("1", ["GPU-bb-2"]),
        ("1, 0", ["GPU-bb-2", "GPU-aa-1"]),
        ("0,7,1", ["GPU-aa-1"]),
        ("GPU-b", ["GPU-bb-2"]),
        ("GPU-", []),
        ("MIG-cc-3,MIG-dd-4", ["MIG-cc-3", "MIG-dd-4"]),
    ],
)
def test_visible_gpus(value: str | None, seen: list[str]) -> None:
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    gpus = [Gpu("GPU-aa-1"), Gpu("GPU-bb-2")]
    assert [gpu.name for gpu in visible_gpus(gpus, environ)] == seen


def unmet(
    repository: Path, world_size: int, here: int, environ: Mapping[str, str], **more: bool
) -> list[str]:
    lines = list(gpu_problems(repository, world_size, here, environ, **more))
    assert all("; " in line and "\n" not in line for line in lines)
    return lines


def test_an_engine_of_tensorrt_llm_needs_a_gpu_for_each_rank(
    repository: Path, tmp_path: Path, nvidia_smi: dict[str, str]
) -> None:
    folder = engine(tmp_path / "engine")
    encoder = engine(tmp_path / "encoder")
    (encoder / "rank0.engine").write_bytes(b"larger engine")
    file = model(repository, gpt_model_path=folder, encoder_model_path=encoder)
    assert unmet(repository, 4, 2, nvidia_smi) == [], "the other ranks are on other hosts"
    fix = "; give the container GPUs (docker run --gpus all), or use fewer ranks here with --hosts"
    assert unmet(repository, 4, 4, {"PATH": ""}) == [
        f"{file}: a TensorRT-LLM engine needs 4 GPUs on this host, one per rank, and 0 are visible"
        + fix
    ]
    assert unmet(repository, 4, 2, {**nvidia_smi, "CUDA_VISIBLE_DEVICES": "1"}) == [
        f"{file}: a TensorRT-LLM engine needs 2 GPUs on this host, one per rank, and 1 are "
        f"visible, CUDA_VISIBLE_DEVICES=1 shows 1 of 2{fix}"
    ]
    assert "needs 4 GPUs" in unmet(repository, 1, 1, nvidia_smi, multi_model=True)[0]


@pytest.mark.parametrize(
    ("device", "without", "with_two"), [("auto", 0, 1), ("cpu", 0, 0), ("cuda", 1, 1)]
)
def test_the_transformers_engine_needs_gpus_where_it_uses_them(
    repository: Path,
    tmp_path: Path,
    nvidia_smi: dict[str, str],
    device: str,
    without: int,
    with_two: int,
) -> None:
    folder = hugging_face(tmp_path / "m")
    model(repository, backend="python", engine="transformers", model_dir=folder, device=device)
    assert len(unmet(repository, 3, 3, {"PATH": ""})) == without
    lines = unmet(repository, 3, 3, nvidia_smi)
    assert len(lines) == with_two
    assert all("needs 3 GPUs on this host, one per rank, and 2 are visible; " in li for li in lines)
    assert unmet(repository, 2, 2, nvidia_smi) == []


def test_an_engine_file_larger_than_a_gpu(
    repository: Path, tmp_path: Path, nvidia_smi: dict[str, str]
) -> None:
    config = {"pretrained_config": {"mapping": {"tp_size": 1}}}
    folder = engine(tmp_path / "engine", config, ("rank0.engine",))
    with (folder / "rank0.engine").open("wb") as file:
        file.truncate(30 * 10**9)  # a hole: no bytes on the disk
    model(repository, gpt_model_path=folder)
    assert unmet(repository, 1, 1, nvidia_smi) == [
        f"{folder}/rank0.engine: a rank's weights are 30.0 GB and the smallest GPU has 25.8 GB; "
        "split the model over more ranks, quantize it, or use larger GPUs"
    ]
    assert unmet(repository, 1, 1, {**nvidia_smi, "CUDA_VISIBLE_DEVICES": "1"}) == []


@pytest.mark.parametrize(
    ("world_size", "dtype", "fits"),
    [(1, "auto", False), (2, "auto", True), (1, "float16", True)],
)
def test_a_checkpoint_larger_than_the_ranks_gpus(
    repository: Path,
    tmp_path: Path,
    nvidia_smi: dict[str, str],
    world_size: int,
    dtype: str,
    fits: bool,
) -> None:
    folder = hugging_face(tmp_path / "m", {})
    index = {"metadata": {"total_size": 30 * 10**9}, "weight_map": {}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model(repository, backend="python", engine="transformers", model_dir=folder, dtype=dtype)
    lines = unmet(repository, world_size, world_size, nvidia_smi)
    assert (lines == []) == fits
    assert all(line.startswith(f"{folder}: a rank's weights are 30.0 GB") for line in lines)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ("", 1),
        ("instance_group [ { count: 4 kind: KIND_CPU } ]", 4),
        ("instance_group { count: 2 }\ninstance_group { kind: KIND_CPU }", 3),
        ("instance_group: [{ count: 2, gpus: [0, 1] }, {}]", 5),
        ("instance_group [{ count: 3 rate_limiter { resources [{ name: 'R' count: 9 }] } }]", 3),
        ('# instance_group [{ count: 7 }]\nname: "instance_group [{ count: 4 }]"', 1),
    ],
)
def test_python_processes(tmp_path: Path, config: str, count: int) -> None:
    for model in ("one", "two", "three"):
        (tmp_path / model).mkdir()
    (tmp_path / "one" / "config.pbtxt").write_text(f'backend: "python"\n{config}')
    (tmp_path / "two" / "config.pbtxt").write_text('backend: "python"')
    (tmp_path / "three" / "config.pbtxt").write_text('backend: "tensorrtllm"')
    assert python_processes(tmp_path) == count + 1
