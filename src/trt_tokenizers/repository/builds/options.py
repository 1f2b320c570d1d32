"""What the user wants to build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BuildOptions:
    """What the user wants to build.

    Attributes:
        model: the model's folder in Hugging Face's layout.
        version: of TensorRT-LLM, such as 0.17 or 0.17.0.
        tensor, pipeline: parallel sizes; 0: from world_size and the other one.
        dtype: of the weights that are not quantized; empty: the model's, float16 for float32.
        quantization: a name in `facts.QUANTIZATIONS`; empty: none.
        max_*: limits of the engine in tokens and requests; 0: the version's default.
        gpu_memory: of one GPU in bytes; 0: the memory is not planned.
        gpu: a name in `facts.GPUS`; empty: any.
        output: the engine's folder. The repository and the checkpoint are made beside it.
    """

    model: Path
    version: str
    world_size: int = 1
    tensor: int = 0
    pipeline: int = 0
    dtype: str = ""
    quantization: str = ""
    max_batch_size: int = 0
    max_input_len: int = 0
    max_seq_len: int = 0
    max_num_tokens: int = 0
    gpu_memory: int = 0
    gpu: str = ""
    output: Path = Path("engine")
