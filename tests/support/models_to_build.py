"""Folders of published models: their config.json, and weights of the right size without data."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

_LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096,
    "num_hidden_layers": 32, "num_attention_heads": 32, "torch_dtype": "bfloat16",
}  # fmt: skip
#: Name -> number of weights, their type, and config.json.
MODELS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "Llama-2-7b-hf": (6_738_415_616, "BF16", {
        **_LLAMA, "intermediate_size": 11008, "num_key_value_heads": 32, "vocab_size": 32000,
        "max_position_embeddings": 4096, "rope_scaling": None,
    }),
    "Llama-3.1-8B": (8_030_261_248, "BF16", {
        **_LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256,
        "max_position_embeddings": 131072, "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
    }),
    "Qwen2.5-7B": (7_615_616_512, "BF16", {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "vocab_size": 152064, "max_position_embeddings": 131072, "sliding_window": 131072,
        "use_sliding_window": False, "max_window_layers": 28, "torch_dtype": "bfloat16",
    }),
    "Mixtral-8x7B-v0.1": (46_702_792_704, "BF16", {
        "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000,
        "max_position_embeddings": 32768, "sliding_window": None, "torch_dtype": "bfloat16",
    }),
    "gpt2": (124_439_808, "F32", {
        "model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
        "vocab_size": 50257,
    }),
    "gemma-7b": (8_537_680_896, "BF16", {
        "model_type": "gemma", "hidden_size": 3072, "intermediate_size": 24576,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 16,
        "head_dim": 256, "vocab_size": 256000, "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    }),
}  # fmt: skip


def model_folder(parent: Path, name: str, **changes: Any) -> Path:
    """The folder of model *name* in *parent*, with *changes* to its config.json."""
    count, kind, config = MODELS[name]
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    tensor = {"dtype": kind, "shape": [count], "data_offsets": [0, 0]}
    header = json.dumps({"weights": tensor}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder
