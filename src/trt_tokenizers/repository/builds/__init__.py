"""The commands that build a TensorRT-LLM engine, and the container that it runs in.

All knowledge of TensorRT-LLM's versions is in facts.json: each row has its source, and «since» and
«until», the first and last minor version that it is true for.
"""
