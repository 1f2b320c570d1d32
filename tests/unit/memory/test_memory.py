"""The command plan: exact sizes, an estimate close to a measurement, and advice that works."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from trt_tokenizers.cli.main import main
from trt_tokenizers.engines.transformers.memory import workspace
from trt_tokenizers.engines.transformers.settings import TransformersSettings
from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.memory.model_sizes import ModelSizes, read_model
from trt_tokenizers.memory.planner import GIB, estimate, fits

LLAMA_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA_13B = {
    **LLAMA_7B, "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
    "num_attention_heads": 40, "num_key_value_heads": 40,
}  # fmt: skip


def weights(file: Path, *tensors: tuple[str, list[int]]) -> None:
    """Write the header of a safetensors file; `plan` reads nothing else."""
    header: dict[str, Any] = {
        f"t{at}": {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
        for at, (dtype, shape) in enumerate(tensors)
    }
    text = json.dumps({**header, "__metadata__": {"format": "pt"}}).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)


def checkpoint(folder: Path, config: dict[str, Any], parameters: int) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    weights(folder / "model-1.safetensors", ("BF16", [parameters // 2, 1]), ("I64", []))
    weights(folder / "model-2.safetensors", ("BF16", [parameters - parameters // 2]))
    return folder


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "7b", LLAMA_7B, 6_738_415_616)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def test_weights_and_kv_cache_are_exact(seven: Path) -> None:
    model = read_model(seven)
    assert model.weights == 2 * 6_738_415_616 + 8
    assert read_model(seven, "float32").weights == 4 * 6_738_415_616 + 8
    plan = estimate(model, 80 * GIB, 0.9)
    assert plan.kv_bytes_per_token == 2 * 32 * 32 * 128 * 2 == 524288
    assert plan.tokens == plan.kv_cache // 524288
    assert sum(size for _, size in plan.parts) == 80 * GIB
    assert plan.sequences == plan.tokens // 4096


@pytest.mark.parametrize(
    ("config", "parameters", "measured"),
    [(LLAMA_7B, 6_738_415_616, 33.8), (LLAMA_13B, 13_015_864_320, 45.0)],
)
def test_the_estimate_is_close_to_what_a_user_measured(
    config: dict[str, Any], parameters: int, measured: float, tmp_path: Path
) -> None:
    """bf16 on an 80 GB card with fraction 0.2. The build of the engines is unknown: 64 × 2048
    tokens are fitted to the first measurement, and the second one is a prediction."""
    model = read_model(checkpoint(tmp_path / "m", config, parameters))
    plan = estimate(ModelSizes(**{**vars(model), "max_num_tokens": 64 * 2048}), 81559 * 2**20, 0.2)
    assert plan.used / GIB == pytest.approx(measured, rel=0.01)


def test_grouped_heads_and_parallel_sizes(tmp_path: Path) -> None:
    config = {**LLAMA_7B, "num_key_value_heads": 8, "head_dim": 64}
    model = read_model(checkpoint(tmp_path / "m", config, 1000))
    assert estimate(model, GIB, 0.9).kv_bytes_per_token == 2 * 32 * 8 * 64 * 2
    split = estimate(model, GIB, 0.9, 4, 2)
    assert split.kv_bytes_per_token == 2 * 16 * 2 * 64 * 2
    assert split.weights == 2008 // 8
    with pytest.raises(RepositoryError, match="tensor parallel size of 3; sizes that work: 1, 2"):
        estimate(model, GIB, 0.9, 3)


def engine(folder: Path, config: dict[str, Any], names: list[str]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for size, name in enumerate(names, 1000):
        (folder / name).write_bytes(b"e" * size)
    return folder


def test_engines_of_current_and_old_versions(tmp_path: Path) -> None:
    current = {
        "version": "0.17.0",
        "pretrained_config": {
            **LLAMA_7B, "dtype": "bfloat16", "head_size": 128,
            "quantization": {"kv_cache_quant_algo": "FP8"},
            "mapping": {"tp_size": 2, "pp_size": 1},
        },
        "build_config": {"max_batch_size": 8, "max_num_tokens": 2048, "max_seq_len": 1024},
    }  # fmt: skip
    model = read_model(engine(tmp_path / "current", current, ["rank0.engine", "rank1.engine"]))
    plan = estimate(model, GIB, 0.9)
    assert plan.weights == 1001, "the largest rank"
    assert plan.kv_bytes_per_token == 2 * 32 * 16 * 128 * 1
    assert (model.max_num_tokens, model.max_seq_len) == (2048, 1024)
    with pytest.raises(RepositoryError, match="was built for tensor parallel 2"):
        estimate(model, GIB, 0.9, 4)
    old_config = {
        "builder_config": {
            "name": "llama", "precision": "float16", "tensor_parallel": 1, "num_layers": 32,
            "num_heads": 32, "hidden_size": 4096, "max_batch_size": 8, "max_input_len": 512,
            "max_output_len": 100,
        }
    }  # fmt: skip
    old = read_model(engine(tmp_path / "old", old_config, ["llama_float16_tp1_rank0.engine"]))
    assert (old.max_num_tokens, old.max_seq_len, old.weights) == (4096, 612, 1000)
    assert estimate(old, GIB, 0.9).kv_bytes_per_token == 524288


def test_advice_if_the_model_does_not_fit(seven: Path) -> None:
    done = run(seven, "--gpu-memory", 15)
    assert done.exit_code == 1
    assert "does not fit: the KV cache is too small for a sequence of 4096 tokens" in done.stdout
    assert "would fit: tensor parallel 2: " in done.stdout
    assert fits(estimate(read_model(seven), 15 * GIB, 0.9, 2))
    assert "GiB too much" in run(seven, "--gpu-memory", 8).stdout


def test_the_picture(seven: Path, tmp_path: Path) -> None:
    done = run(seven, "--gpu-memory", 80, "--picture", tmp_path / "m.svg")
    assert done.exit_code == 0, done.output
    bar = done.stdout.splitlines()[1]
    assert len(bar) == 64 + 2
    assert bar.startswith("[WWWWWWWWWWA")
    assert bar.count("K") == round(64 * 0.9 * (80 - 12.55 - 0.6 - 0.5) / 80)
    drawn = ElementTree.parse(tmp_path / "m.svg").getroot()
    widths = [float(r.get("width", 0)) for r in drawn.iter() if r.get("height") == "28"]
    assert sum(widths) == pytest.approx(620, abs=0.5)
    found = json.loads(run(seven, "--gpu-memory", 80, "--json").stdout)
    assert found["fits"] is True
    assert found["weights"] == 2 * 6_738_415_616 + 8


@pytest.mark.parametrize("name", ["m.png", "m.SVG", "svg"])
def test_a_picture_in_another_format_is_an_error(seven: Path, tmp_path: Path, name: str) -> None:
    done = run(seven, "--gpu-memory", 80, "--picture", tmp_path / name)
    assert done.exit_code == 2
    assert "only SVG is supported; give a name ending in .svg" in done.stderr
    assert not (tmp_path / name).exists()


def test_folders_without_the_needed_files(tmp_path: Path, seven: Path) -> None:
    assert "config.json cannot be read" in run(tmp_path, "--gpu-memory", 1).stderr
    (seven / "config.json").write_text("{}")
    assert "values for the estimate are missing" in run(seven, "--gpu-memory", 1).stderr
    (seven / "config.json").write_text(json.dumps(LLAMA_7B))
    for file in seven.glob("*.safetensors"):
        file.unlink()
    assert "has no *.safetensors files" in run(seven, "--gpu-memory", 1).stderr


@pytest.mark.parametrize(
    ("kv_heads", "attention", "fraction"),
    [(32, "sdpa", 0.9), (8, "sdpa", 0.5), (8, "flash_attention_2", 0.9)],
)
def test_the_transformers_engine_agrees_with_the_sizing_of_its_library(
    kv_heads: int, attention: str, fraction: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """transformers' own sizing of the KV cache, on an 80 GB card with weights and CUDA in use."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.generation.continuous_batching import cache

    config = {**LLAMA_7B, "num_key_value_heads": kv_heads}
    folder = checkpoint(tmp_path / "m", config, 6_738_415_616)
    s = TransformersSettings(model_dir=str(folder), attn_implementation=attention)
    plan = estimate(read_model(folder), 80 * GIB, fraction, engine=workspace(s))
    taken = plan.weights + plan.cuda
    breakdown = ("cuda", 80 * GIB, 0, taken)
    monkeypatch.setattr(cache, "get_device_and_memory_breakdown", lambda: breakdown)
    page = s.page_size * plan.kv_bytes_per_token
    llama = transformers.LlamaConfig(**config)
    llama._attn_implementation = attention
    handler = cache.PagedAttentionMemoryHandler(
        config=llama,
        cb_config=transformers.ContinuousBatchingConfig(
            page_size=s.page_size,
            max_batch_tokens=s.batch_tokens("cuda"),
            max_requests_per_batch=s.batch_size("cuda"),
            max_memory_percent=fraction,
            max_blocks_per_request=0,
        ),
        dtype=torch.bfloat16,
        bytes_per_sector=page,
        tokens_per_sector=s.page_size,
        bytes_per_block=page,
        attn_types=["full_attention"],
        model_supports_logits_to_keep=True,
    )
    _, pages = handler.infer_max_batch_tokens_and_num_sectors()
    assert plan.tokens == pytest.approx(pages * s.page_size, rel=1e-3)
    footprint = handler.compute_memory_footprint(s.batch_tokens("cuda"), pages)
    assert plan.activations + plan.kv_cache == pytest.approx(footprint, rel=1e-3)


def test_the_transformers_engine_on_the_command_line(seven: Path, tmp_path: Path) -> None:
    done = run(seven, "--engine", "transformers", "--gpu-memory", 80)
    assert done.exit_code == 0, done.output
    assert "for 2048 tokens per iteration" in done.stdout
    done = run(seven, "--engine", "transformers", "--gpu-memory", 15)
    assert done.exit_code == 1
    split = estimate(
        read_model(seven), 15 * GIB, 0.9, 2, engine=workspace(TransformersSettings(str(seven)))
    )
    assert f"would fit: tensor parallel 2: {split.tokens} tokens" in done.stdout
    done = run(seven, "--engine", "transformers", "--gpu-memory", 80, "--pp", 2)
    assert "remove --pp and --max-num-tokens" in done.stderr
    built = engine(tmp_path / "e", {"builder_config": {
        "name": "llama", "precision": "float16", "tensor_parallel": 1, "num_layers": 32,
        "num_heads": 32, "hidden_size": 4096,
    }}, ["llama_float16_tp1_rank0.engine"])  # fmt: skip
    done = run(built, "--engine", "transformers", "--gpu-memory", 80)
    assert "give the folder of a Hugging Face model" in done.stderr
