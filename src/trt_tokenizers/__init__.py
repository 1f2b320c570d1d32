"""Exact tokenizers, chat templates and streaming text for Triton's TensorRT-LLM ensemble."""

__version__ = "0.1.0"
