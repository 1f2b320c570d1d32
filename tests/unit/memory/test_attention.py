"""The KV cache's bytes per token of every attention geometry, from published configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_memory import LLAMA_7B, checkpoint, run, weights

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.memory.attention import KvLayers, kv_layers
from trt_tokenizers.memory.model_sizes import bits, read_model
from trt_tokenizers.memory.planner import GIB, estimate

DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61,
    "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
}  # fmt: skip
FALCON_7B = {
    "model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32,
    "num_attention_heads": 71, "num_kv_heads": 71, "multi_query": True,
    "new_decoder_architecture": False,
}  # fmt: skip
FALCON_40B = {
    **FALCON_7B, "hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128,
    "num_kv_heads": 8, "new_decoder_architecture": True,
}  # fmt: skip
CHATGLM = {
    "model_type": "chatglm", "hidden_size": 4096, "num_layers": 28, "num_attention_heads": 32,
    "kv_channels": 128, "multi_query_attention": True, "multi_query_group_num": 2,
}  # fmt: skip
MPT = {"model_type": "mpt", "d_model": 4096, "n_layers": 32, "n_heads": 32}
JAMBA = {
    "model_type": "jamba", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16,
}  # fmt: skip
GEMMA_3 = {
    "model_type": "gemma3_text", "hidden_size": 3840, "num_hidden_layers": 48,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "sliding_window": 1024,
    "sliding_window_pattern": 6,
}  # fmt: skip
GPT_OSS = {
    "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 24,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
}  # fmt: skip
QWEN_2 = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "sliding_window": 131072, "max_window_layers": 28,
    "use_sliding_window": False,
}  # fmt: skip
QWEN_3_NEXT = {
    "model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48,
    "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
    "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
}  # fmt: skip
NEMOTRON_H = {
    "model_type": "nemotron_h", "hidden_size": 4096, "num_hidden_layers": 8,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "hybrid_override_pattern": "M-M*-M*-", "mamba_num_heads": 128,
}  # fmt: skip
OPEN_ELM = {
    "model_type": "openelm", "model_dim": 1280, "num_transformer_layers": 3, "head_dim": 64,
    "num_query_heads": [12, 16, 20], "num_kv_heads": [3, 4, 5],
}  # fmt: skip
NAS = {
    "model_type": "nemotron-nas", "hidden_size": 8192, "num_hidden_layers": 3,
    "num_attention_heads": 64,
    "block_configs": [{"attention": {"n_heads_in_group": 8}},
                      {"attention": {"n_heads_in_group": None, "no_op": True}},
                      {"attention": {"n_heads_in_group": 16}}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (DEEPSEEK_V3, [KvLayers(61, 1, 576)]),
        (FALCON_7B, [KvLayers(32, 1, 128)]),
        (FALCON_40B, [KvLayers(60, 8, 128)]),
        ({**FALCON_7B, "multi_query": False}, [KvLayers(32, 71, 128)]),
        (CHATGLM, [KvLayers(28, 2, 256)]),
        ({**CHATGLM, "multi_query_attention": False}, [KvLayers(28, 32, 256)]),
        (MPT, [KvLayers(32, 32, 256)]),
        ({**MPT, "attn_config": {"kv_n_heads": 8}}, [KvLayers(32, 8, 256)]),
        ({**MPT, "attn_config": {"attn_type": "multiquery_attention"}}, [KvLayers(32, 1, 256)]),
        ({"model_type": "gpt_bigcode", "n_embd": 6144, "n_layer": 40, "n_head": 48,
          "multi_query": True}, [KvLayers(40, 1, 256)]),
        ({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12},
         [KvLayers(12, 12, 128)]),
        (JAMBA, [KvLayers(4, 8, 256)]),
        (GEMMA_3, [KvLayers(40, 8, 512, 1024), KvLayers(8, 8, 512)]),
        (GPT_OSS, [KvLayers(12, 8, 128, 128), KvLayers(12, 8, 128)]),
        (QWEN_2, [KvLayers(28, 4, 256)]),
        ({**QWEN_2, "use_sliding_window": True, "max_window_layers": 20},
         [KvLayers(20, 4, 256), KvLayers(8, 4, 256, 131072)]),
        ({**LLAMA_7B, "model_type": "mistral", "sliding_window": 4096},
         [KvLayers(32, 32, 256, 4096)]),
        (QWEN_3_NEXT, [KvLayers(12, 2, 512)]),
        (NEMOTRON_H, [KvLayers(2, 8, 256)]),
        (OPEN_ELM, [KvLayers(1, 3, 128), KvLayers(1, 4, 128), KvLayers(1, 5, 128)]),
        (NAS, [KvLayers(1, 8, 256), KvLayers(1, 4, 256)]),
        ({**GEMMA_3, "num_hidden_layers": 12, "num_kv_shared_layers": 6},
         [KvLayers(5, 8, 512, 1024), KvLayers(1, 8, 512)]),
        ({**LLAMA_7B, "v_head_dim": 64}, [KvLayers(32, 32, 192)]),
    ],
)  # fmt: skip
def test_geometries(config: dict[str, Any], layers: list[KvLayers]) -> None:
    assert list(kv_layers(config, Path("config.json"))) == layers


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "new", "hidden_size": 64, "num_hidden_layers": 2,
          "num_attention_heads": 4}, "does not say how many key-value heads the model has; add"),
        ({**LLAMA_7B, "model_type": "new", "mamba_d_state": 16},
         "does not say which layers have attention; add layer_types"),
        ({**LLAMA_7B, "layer_types": ["linear_attention"]}, "has no layers with attention"),
    ],
)  # fmt: skip
def test_an_unknown_geometry_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(RepositoryError, match=rf"^here/config.json:? .*{message}"):
        kv_layers(config, Path("here/config.json"))


def test_bytes_per_token(tmp_path: Path) -> None:
    deepseek = read_model(checkpoint(tmp_path / "v3", {**DEEPSEEK_V3, "dtype": "bfloat16"}, 10))
    assert estimate(deepseek, GIB, 0.9).kv_bytes_per_token == 70_272
    assert estimate(deepseek, GIB, 0.9, tensor=8).kv_bytes_per_token == 70_272, "every rank has it"
    nested = {"thinker_config": {"text_config": LLAMA_7B}, "dtype": "bfloat16"}
    omni = read_model(checkpoint(tmp_path / "omni", nested, 10))
    assert estimate(omni, GIB, 0.9).kv_bytes_per_token == 524_288
    falcon = read_model(checkpoint(tmp_path / "f", {**FALCON_7B, "dtype": "bfloat16"}, 10))
    assert estimate(falcon, GIB, 0.9).kv_bytes_per_token == 8192


def test_a_window_bounds_the_memory_of_a_sequence(tmp_path: Path) -> None:
    config = {**GPT_OSS, "dtype": "bfloat16", "max_position_embeddings": 4096}
    plan = estimate(read_model(checkpoint(tmp_path / "m", config, 10)), GIB, 0.9)
    assert plan.kv_bytes_per_token == 24 * 8 * 128 * 2
    assert plan.sequences == plan.kv_cache // (12 * 8 * 128 * 2 * (4096 + 128))
    shown = run(tmp_path / "m", "--gpu-memory", 1).stdout
    assert "12 layers keep the last 128 tokens only" in shown


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("F8_E8M0", 8), ("F8_E4M3", 8), ("F6_E2M3", 6), ("F4", 4), ("BF16", 16), ("U64", 64),
     ("C64", 64), ("BOOL", 8), ("torch.bfloat16", 16), ("float8_e4m3fn", 8), ("fp8", 8),
     ("int8", 8), ("half", 16), ("float", 32), ("nvfp4", 4)],
)  # fmt: skip
def test_types(dtype: str, size: int) -> None:
    assert bits(dtype, "here") == size


def test_types_in_files(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", {**LLAMA_7B, "torch_dtype": "torch.bfloat16"}, 10)
    weights(folder / "model-3.safetensors", ("F8_E8M0", [100]), ("F4", [10]))
    assert read_model(folder).weights == 2 * 10 + 8 + 100 + 5
    assert read_model(folder, "torch.float32").weights == 4 * 10 + 8 + 100 + 5
    with pytest.raises(RepositoryError, match="--dtype: the size of the type 'big' is unknown"):
        read_model(folder, "big")
    weights(folder / "model-4.safetensors", ("Q", [1]))
    with pytest.raises(RepositoryError, match=r"model-4\.safetensors: the size of the type 'Q'"):
        read_model(folder)
