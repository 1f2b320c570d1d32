"""Estimates the memory of one GPU: weights, activations, KV cache and free memory. Loads nothing.

Weights (from file headers) and the KV cache's bytes per token are exact. Activations are an
estimate for each engine (`Workspace`), and CUDA itself is estimated at 0.5 GiB.
"""

from __future__ import annotations

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
    """Memory of an engine for its iterations beside weights and KV cache, in bytes.

    Attributes:
        fixed: part that does not depend on the size of the KV cache.
        per_cached_token: additional bytes for each token of the KV cache.
        within_fraction: whether kv_cache_free_gpu_mem_fraction is the share of KV cache and
            workspace together; otherwise it is the KV cache's share of what the workspace leaves.
        page_size: tokens per page; the KV cache holds whole pages.
    """

    fixed: int
    per_cached_token: int = 0
    within_fraction: bool = False
    page_size: int = 1


#: (model, tensor parallel size) -> the workspace of an engine.
EngineWorkspace = Callable[[ModelSizes, int], Workspace]


def tensorrt_llm(model: ModelSizes, tensor: int) -> Workspace:
    """TensorRT-LLM's workspace: tokens of one iteration × (4 × hidden_size + 2 × intermediate_size
    / tensor parallel size) × 2 bytes."""
    per_token = 4 * model.hidden_size + 2 * model.intermediate_size // tensor
    return Workspace(2 * model.max_num_tokens * per_token)


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory of one GPU, in bytes.

    Attributes:
        model: with the tensor and pipeline parallel sizes of the estimate.
        engine: computes the workspace.
        gpu: total memory.
        fraction: kv_cache_free_gpu_mem_fraction.
    """

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
        """Unused memory; negative if the model does not fit."""
        return self.gpu - self.weights - self.activations - self.cuda - self.kv_cache

    @property
    def used(self) -> int:
        """Memory of weights, activations, CUDA and KV cache."""
        return self.gpu - self.free

    @property
    def tokens(self) -> int:
        """Tokens that the KV cache holds in all layers."""
        return self.kv_cache // self.kv_bytes_per_token

    @property
    def sequences(self) -> int:
        """Sequences of max_seq_len tokens that the KV cache holds."""
        model = self.model
        split = model.tensor_parallel, model.pipeline_parallel
        return self.kv_cache // model.kv_bytes(max(1, model.max_seq_len), *split)

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Name and size of each part of the GPU's memory, in the order of the picture."""
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
    """Estimate the memory of one of tensor × pipeline GPUs.

    Args:
        gpu: memory of the GPU in bytes.
        fraction: kv_cache_free_gpu_mem_fraction, of the memory that is free after loading.
        tensor, pipeline: parallel sizes; 0: those of *model*.
        engine: computes the workspace.

    Raises:
        RepositoryError: the model cannot be split in this way.
    """
    tensor = tensor or model.tensor_parallel
    pipeline = pipeline or model.pipeline_parallel
    built = model.tensor_parallel, model.pipeline_parallel
    if model.config is None and (tensor, pipeline) != built:
        raise RepositoryError(
            f"{model.folder}: the engine was built for tensor parallel {model.tensor_parallel} and "
            f"pipeline parallel {model.pipeline_parallel}; leave --tp and --pp out, or give the "
            "folder of the model"
        )
    if model.config is not None and (why := splittable(model.config, tensor)):
        raise RepositoryError(f"{model.folder / 'config.json'}: {why}")
    weights = model.weights // (tensor * pipeline)
    token_bytes = model.kv_bytes(1, tensor, pipeline)
    workspace, free = engine(model, tensor), gpu - weights - _CUDA
    if workspace.within_fraction:
        share = int(free * fraction) - workspace.fixed
    else:
        share = int((free - workspace.fixed) * fraction)
    page_bytes = (token_bytes + workspace.per_cached_token) * workspace.page_size
    tokens = max(0, share) // page_bytes * workspace.page_size
    return MemoryEstimate(
        model=replace(model, tensor_parallel=tensor, pipeline_parallel=pipeline),
        engine=engine,
        gpu=gpu,
        fraction=fraction,
        weights=weights,
        activations=workspace.fixed + tokens * workspace.per_cached_token,
        cuda=_CUDA,
        kv_cache=tokens * token_bytes,
        kv_bytes_per_token=token_bytes,
    )


def fits(plan: MemoryEstimate) -> bool:
    """Whether the model loads and the KV cache holds a sequence of max_seq_len tokens."""
    return plan.free >= 0 and plan.sequences >= 1


def advice(plan: MemoryEstimate) -> Iterator[str]:
    """Single changes that make the model fit, one line each, with the resulting KV cache."""
    for change, changed in _changes(plan):
        if fits(changed):
            yield f"{change}: {changed.tokens} tokens of KV cache, {changed.sequences} sequences"


def _changes(plan: MemoryEstimate) -> Iterator[tuple[str, MemoryEstimate]]:
    model = plan.model
    again = partial(estimate, gpu=plan.gpu, fraction=plan.fraction, engine=plan.engine)
    if plan.fraction < 0.9:
        yield "kv_cache_free_gpu_mem_fraction 0.9", again(model, fraction=0.9)
    if model.max_num_tokens > 2048:
        yield "max_num_tokens 2048", again(replace(model, max_num_tokens=2048))
    if model.max_seq_len > 4096:
        yield "max_seq_len 4096", again(replace(model, max_seq_len=4096))
    if model.config is not None:
        for factor in (2, 4, 8):
            tensor = model.tensor_parallel * factor
            if splittable(model.config, tensor) is None:
                split = again(model, tensor=tensor, pipeline=model.pipeline_parallel)
                yield f"tensor parallel {tensor}", split
    yield "weights of half the size (quantized)", again(replace(model, weights=model.weights // 2))
