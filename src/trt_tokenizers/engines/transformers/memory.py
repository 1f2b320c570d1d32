"""GPU memory of the engine `transformers` beside weights and KV cache.

The formulas follow `PagedAttentionMemoryHandler` of transformers 5.23. It sizes the KV cache so
that the cache and the tensors of a forward pass over a full cache together take
kv_cache_free_gpu_mem_fraction of the memory that the model leaves free. Tables of integers, below
1 MB, are not counted.
"""

from __future__ import annotations

from trt_tokenizers.engines.transformers.settings import TransformersSettings
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.memory.model_sizes import ModelSizes
from trt_tokenizers.memory.planner import EngineWorkspace, Workspace


def workspace(s: TransformersSettings) -> EngineWorkspace:
    """The workspace on a GPU of a model without sliding-window layers."""

    def needs(model: ModelSizes, tensor: int) -> Workspace:
        """Compute the workspace of *model* with *tensor* parallel ranks.

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
        # The library does not divide these by the tensor parallel size. Attention reads keys and
        # values from the cache and copies them for each head; flash attention does not copy.
        read = 2 * model.kv_heads if s.flash else 2 * model.heads + model.kv_heads
        states = model.hidden_size + (model.heads + 2 * model.kv_heads + read) * model.head_size
        logits = model.hidden_size * size + int(model.config["vocab_size"]) * 4  # in float32
        mask = 0 if s.flash else rows * size  # one column of the attention mask
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
