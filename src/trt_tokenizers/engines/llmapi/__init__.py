"""The engine on TensorRT-LLM's Python LLM API."""
