"""A tiny Llama of random weights, for the engines `llmapi` and `vllm`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from library_engines import PROMPT


@pytest.fixture(scope="session")
def tiny_llama() -> Any:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
        initializer_range=0.3, eos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tiny_llama_dir(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-llama")
    tiny_llama.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def greedy(tiny_llama: Any) -> list[int]:
    """The greedy answer to `PROMPT`, by ``model.generate``."""
    import torch

    prompt = torch.tensor([PROMPT])
    out = tiny_llama.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None)
    return list(out[0, len(PROMPT) :].tolist())
