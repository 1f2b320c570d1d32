"""Memory of one GPU: weights, activations, KV cache, what is free. Nothing is loaded.

Exact: the weights (of the files' headers) and the KV cache's bytes per token. Estimated: the
activations, which each engine makes its own way (`Workspace`), and 0.5 GiB for CUDA itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.hf_config import splittable
from trt_tokenizers.memory.model_sizes import ModelSizes

GIB = 2**30
_CUDA = GIB // 2


@dataclass(frozen=True)
class Workspace:
    """What an engine keeps for its iterations, beside weights and KV cache, in bytes.

    Attributes:
        fixed: whatever the size of the KV cache.
        per_cached_token: more for each token of the KV cache.
        within_fraction: kv_cache_free_gpu_mem_fraction is the share for KV cache and workspace;
            otherwise for the KV cache, of what the workspace leaves.
        page_size: tokens; the KV cache holds whole pages.
    """

    fixed: int
    per_cached_token: int = 0
    within_fraction: bool = False
    page_size: int = 1


#: A model and its tensor parallel size -> what an engine needs for it.
EngineWorkspace = Callable[[ModelSizes, int], Workspace]


def tensorrt_llm(model: ModelSizes, tensor: int) -> Workspace:
    """TensorRT-LLM's: tokens of one iteration × (4 × hidden_size + 2 × intermediate_size / tensor
    parallel) × 2 bytes."""
    per_token = 4 * model.hidden_size + 2 * model.intermediate_size // tensor
    return Workspace(2 * model.max_num_tokens * per_token)


@dataclass(frozen=True)
class MemoryEstimate:
    """One GPU's memory, in bytes; `tokens` and `sequences` are those of the KV cache."""

    model: ModelSizes
    engine: EngineWorkspace
    gpu: int
    fraction: float
    weights: int
    activations: int
    cuda: int
    kv_cache: int
    kv_bytes_per_token: int

    @property
    def free(self) -> int:
        """What nothing takes; negative if it does not fit."""
        return self.gpu - self.weights - self.activations - self.cuda - self.kv_cache

    @property
    def used(self) -> int:
        return self.gpu - self.free

    @property
    def tokens(self) -> int:
        return self.kv_cache // self.kv_bytes_per_token

    @property
    def sequences(self) -> int:
        """Of max_seq_len tokens each."""
        return self.tokens // max(1, self.model.max_seq_len)

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        return (
            ("weights", self.weights),
            ("activations", self.activations),
            ("CUDA", self.cuda),
            ("KV cache", self.kv_cache),
            ("free", max(0, self.free)),
        )


def estimate(
    model: ModelSizes,
    gpu: int,
    fraction: float,
    tensor: int = 0,
    pipeline: int = 0,
    *,
    engine: EngineWorkspace = tensorrt_llm,
) -> MemoryEstimate:
    """One GPU of tensor × pipeline.

    Args:
        gpu: its memory, bytes.
        fraction: kv_cache_free_gpu_mem_fraction: of what is free after loading.
        tensor, pipeline: parallel sizes; 0: those of the engine.
        engine: how it uses memory.

    Raises:
        RepositoryError: the model cannot be split so.
    """
    tensor = tensor or model.tensor_parallel
    pipeline = pipeline or model.pipeline_parallel
    if model.config is None and (tensor, pipeline) != (
        model.tensor_parallel,
        model.pipeline_parallel,
    ):
        raise RepositoryError(
            f"{model.folder}: the engine was built for tensor parallel {model.tensor_parallel} and "
            f"pipeline parallel {model.pipeline_parallel}; leave --tp and --pp out, or plan with "
            "the model's folder"
        )
    if model.config is not None and (why := splittable(model.config, tensor)):
        raise RepositoryError(f"{model.folder / 'config.json'}: {why}")
    weights = model.weights // (tensor * pipeline)
    heads = math.ceil(model.kv_heads / tensor)
    layers = math.ceil(model.layers / pipeline)
    each = 2 * layers * heads * model.head_size * model.kv_bytes
    space, left = engine(model, tensor), gpu - weights - _CUDA
    if space.within_fraction:
        share = int(left * fraction) - space.fixed
    else:
        share = int((left - space.fixed) * fraction)
    pages = max(0, share) // ((each + space.per_cached_token) * space.page_size)
    tokens = pages * space.page_size
    return MemoryEstimate(
        model=replace(model, tensor_parallel=tensor, pipeline_parallel=pipeline),
        engine=engine,
        gpu=gpu,
        fraction=fraction,
        weights=weights,
        activations=space.fixed + tokens * space.per_cached_token,
        cuda=_CUDA,
        kv_cache=tokens * each,
        kv_bytes_per_token=each,
    )


def fits(made: MemoryEstimate) -> bool:
    """Whether it loads, and the KV cache holds one sequence of the greatest length."""
    return made.free >= 0 and made.sequences >= 1


def advice(made: MemoryEstimate) -> Iterator[str]:
    """What to change if it does not fit, one line each, with what that would give."""
    model = made.model
    if fits(made):
        return
    again = partial(estimate, gpu=made.gpu, fraction=made.fraction, engine=made.engine)
    if made.fraction < 0.9:
        yield from _would("kv_cache_free_gpu_mem_fraction 0.9", again(model, fraction=0.9))
    if model.max_num_tokens > 2048:
        smaller = replace(model, max_num_tokens=2048)
        yield from _would("max_num_tokens 2048", again(smaller))
    if model.max_seq_len > 4096:
        shorter = replace(model, max_seq_len=4096)
        yield from _would("max_seq_len 4096", again(shorter))
    if model.config is not None:
        for size in (2, 4, 8):
            tensor = model.tensor_parallel * size
            if splittable(model.config, tensor) is None:
                split = again(model, tensor=tensor, pipeline=model.pipeline_parallel)
                yield from _would(f"tensor parallel {tensor}", split)
    lighter = replace(model, weights=model.weights // 2)
    yield from _would("weights of half the size (quantized)", again(lighter))


def _would(change: str, made: MemoryEstimate) -> Iterator[str]:
    if fits(made):
        yield f"{change}: {made.tokens} tokens of KV cache, {made.sequences} whole sequences"
