"""A test double of TensorRT-LLM 1.x: its Python LLM API on a CPU, for machines without a GPU.

Names, parameters, defaults and errors are those of the real package, by its public source and by
llmapi_contract.json next to this folder. A small model generates real tokens with transformers'
continuous batching. The double does not split a model over ranks, does not apply guides, and
ignores adapters.
"""

from tensorrt_llm.llmapi import LLM, SamplingParams

__version__ = "1.2.0"

__all__ = ["LLM", "SamplingParams"]
