"""What the `transformers` engine keeps on a GPU, as its library shares the memory out.

Read in `PagedAttentionMemoryHandler` of transformers 5.23, which makes the KV cache as large as
kv_cache_free_gpu_mem_fraction of what the model leaves pays for, with the tensors of a forward pass
over a full cache. What is below a megabyte (tables of integers) is left out.
"""

from __future__ import annotations

from trt_tokenizers.engines.transformers.settings import TransformersSettings
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.memory.model_sizes import ModelSizes
from trt_tokenizers.memory.planner import EngineWorkspace, Workspace


def workspace(s: TransformersSettings) -> EngineWorkspace:
    """On a GPU, for a model whose layers all attend to everything."""

    def needs(model: ModelSizes, tensor: int) -> Workspace:
        """
        Raises:
            SettingsError: it is an engine of TensorRT-LLM, or its config.json has no vocab_size.
        """
        if model.config is None:
            raise SettingsError(
                f"{model.folder} is an engine of TensorRT-LLM, which the engine 'transformers' "
                "does not run; give the folder of a Hugging Face model"
            )
        if "vocab_size" not in model.config:
            raise SettingsError(f"{model.folder / 'config.json'} has no vocab_size; restore it")
        size, rows = model.kv_bytes, s.batch_tokens("cuda")
        # The library does not divide these by the tensor parallel size. Keys and values read from
        # the cache are there once for each head, but flash attention takes them as they are.
        read = 2 * model.kv_heads if s.flash else 2 * model.heads + model.kv_heads
        states = model.hidden_size + (model.heads + 2 * model.kv_heads + read) * model.head_size
        logits = model.hidden_size * size + int(model.config["vocab_size"]) * 4  # in float32
        mask = 0 if s.flash else rows * size  # a column of the attention's mask
        cache_token = 2 * model.layers * model.kv_heads // tensor * model.head_size * size
        return Workspace(
            fixed=rows * states * size
            + s.batch_size("cuda") * logits
            + rows * mask
            + 2 * s.page_size * cache_token,  # two pages for padding
            per_cached_token=read * model.head_size * size + mask + 8,
            within_fraction=True,
            page_size=s.page_size,
        )

    return needs
