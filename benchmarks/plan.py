"""Compares `trt-tokenizers plan --engine transformers` with the measured memory of a GPU.

The model is in Hugging Face's layout, or the script creates one of random bf16 weights. The engine
loads it, and a full batch of requests fills the KV cache to 85 %, the limit for admission of
requests. So both prefill and generation run with a full cache. The cost of attention grows with the
square of the tokens: use a small fraction for a small model.

    python benchmarks/plan.py --shape 7b
    python benchmarks/plan.py --shape 8b --fraction 0.3
    python benchmarks/plan.py --shape 1b --fraction 0.05
    python benchmarks/plan.py --model ./SmolLM2-135M-Instruct --fraction 0.01

Without CUDA nothing is measured: exit code 2. The shape tiny then still runs on the CPU.
"""

from __future__ import annotations

import queue
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from engine import SHAPES, gpu_memory, make_model_elsewhere

from trt_tokenizers.engines.base import Chunk, GenerationRequest
from trt_tokenizers.engines.transformers import memory as engine_memory
from trt_tokenizers.engines.transformers import settings
from trt_tokenizers.engines.transformers.engine import TransformersEngine
from trt_tokenizers.memory import planner
from trt_tokenizers.memory.model_sizes import read_model

VOCABULARY = 32000
#: transformers admits no request while less than 15 % of the KV cache is free.
FILLED = 0.85


class Measured(TransformersEngine):
    """The engine, with the memory that torch has allocated after loading the weights."""

    weights = 0

    def _make_manager(self, model: Any, s: settings.TransformersSettings) -> Any:
        self.weights = allocated()
        return super()._make_manager(model, s)

    @property
    def kv_cache(self) -> int:
        return int(self._manager.batch_processor.cache.cache_tensor.nbytes)

    @property
    def cached_tokens(self) -> int:
        cache = self._manager.batch_processor.cache
        return int(cache.num_sectors * cache.tokens_per_sector)


def allocated() -> int:
    import torch

    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def fill(engine: Measured, s: settings.TransformersSettings, device: str) -> int:
    """Fill the KV cache up to the limit for admission; return the number of tokens."""
    requests = s.batch_size(device)
    longest = min(int(engine.cached_tokens * FILLED) // requests, engine.max_seq_len)
    longest -= longest % s.page_size
    # Prompts are prefilled one after another; the first request must still generate at the last.
    new_tokens = min(2 * (requests * longest // s.batch_tokens(device)) + 16, longest // 2)
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    for key in range(1, requests + 1):
        # Prompts differ from their first token, so that no page is shared.
        prompt = tuple((key * 7 + at * (key + 1)) % 1000 + 1 for at in range(longest - new_tokens))
        request = GenerationRequest(key=key, prompt_ids=prompt, max_tokens=new_tokens)
        engine.submit(request, chunks.put)
    for _ in range(requests):
        if (error := chunks.get(timeout=500).error) is not None:
            sys.exit(error)
    return requests * longest


def table(rows: list[tuple[str, int, int]]) -> str:
    """Rows of (name, planned bytes, measured bytes) as text."""
    lines = [f"{'GiB':<36}{'plan':>9}{'measured':>10}{'error':>9}"]
    for name, planned, measured in rows:
        error = f"{(planned - measured) / measured:+9.1%}" if measured else f"{'-':>9}"
        lines.append(f"{name:<36}{planned / planner.GIB:9.3f}{measured / planner.GIB:10.3f}{error}")
    return "\n".join(lines)


@click.command(epilog="Example: python benchmarks/plan.py --shape 7b --fraction 0.9")
@click.option(
    "--model", type=click.Path(path_type=Path), help="Folder of a model in Hugging Face's layout."
)
@click.option("--shape", type=click.Choice(list(SHAPES)), default="7b", show_default=True)
@click.option("--fraction", default=0.9, show_default=True, help="kv_cache_free_gpu_mem_fraction.")
@click.option("--max-batch-size", default=0, help="0: the engine's default.")
@click.option("--attn", default="sdpa", show_default=True, help="attn_implementation.")
def main(model: Path | None, shape: str, fraction: float, max_batch_size: int, attn: str) -> None:
    """Load a model and compare planned with measured memory."""
    import torch

    cuda, what = torch.cuda.is_available(), shape if model is None else model.name
    if not cuda and (model is not None or shape != "tiny"):
        click.echo("CUDA is needed; --shape tiny runs on a CPU, but measures nothing", err=True)
        sys.exit(2)
    with tempfile.TemporaryDirectory(prefix="plan-") as name:
        if model is None:
            model = Path(name)
            make_model_elsewhere(model, shape, VOCABULARY)
        before = gpu_memory()
        values = {
            "model_dir": str(model),
            "kv_cache_free_gpu_mem_fraction": str(fraction),
            "max_batch_size": str(max_batch_size),
            "attn_implementation": attn,
            "max_seq_len": "0" if cuda else "128",
        }
        started = time.monotonic()
        engine = Measured(values)
        loaded = time.monotonic() - started
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        s = settings.checked(values)
        tokens = fill(engine, s, "cuda" if cuda else "cpu")
        if not cuda:
            engine.stop()
            click.echo(f"{tokens} tokens generated on the CPU; measurements need CUDA", err=True)
            sys.exit(2)
        free, total = torch.cuda.mem_get_info()
        plan = planner.estimate(
            read_model(model), total, fraction, engine=engine_memory.workspace(s)
        )
        peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        took = time.monotonic() - started - loaded
        click.echo(
            f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {what}, fraction "
            f"{fraction}, {attn}; loaded in {loaded:.1f} s, filled with {tokens} tokens "
            f"in {took:.1f} s"
        )
        activations = peak - engine.weights - engine.kv_cache
        outside = total - free - torch.cuda.memory_reserved()
        click.echo(table([
            ("weights (allocated after loading)", plan.weights, engine.weights),
            ("KV cache (its tensor)", plan.kv_cache, engine.kv_cache),
            ("activations (peak minus the above)", plan.activations, activations),
            ("all allocations of torch (peak)", plan.used - plan.cuda, peak),
            ("CUDA (not reserved by torch)", plan.cuda, outside),
            ("used, by the driver", plan.used, total - free),
        ]))  # fmt: skip
        click.echo(
            f"tokens in the KV cache: plan {plan.tokens}, measured {engine.cached_tokens}; torch "
            f"reserved {reserved / planner.GIB:.3f} GiB at the peak; nvidia-smi {before} before "
            f"the load, {gpu_memory()} at the end"
        )
        engine.stop()


if __name__ == "__main__":
    main()
