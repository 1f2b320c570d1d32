"""Arguments of LLM(): the real fields that a test or the documentation uses."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class KvCacheConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    enable_block_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float | None = 0.9


class TorchLlmArgs(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str
    tokenizer: Any = None
    tokenizer_mode: str = "auto"
    skip_tokenizer_init: bool = False
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    context_parallel_size: int = 1
    gpus_per_node: int | None = None
    dtype: str = "auto"
    revision: str | None = None
    tokenizer_revision: str | None = None
    kv_cache_config: KvCacheConfig = KvCacheConfig()
    max_batch_size: int | None = None
    max_seq_len: int | None = None
    max_num_tokens: int | None = 8192
    max_beam_width: int | None = 1
    enable_chunked_prefill: bool = False
    guided_decoding_backend: str | None = None
    sampler_type: str = "auto"
    lora_config: dict[str, Any] | None = None
    return_perf_metrics: bool = False
    stream_interval: int = 1


LlmArgs = TorchLlmArgs
