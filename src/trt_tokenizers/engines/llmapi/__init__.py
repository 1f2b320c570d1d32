"""The engine `llmapi`: TensorRT-LLM's Python LLM API."""
