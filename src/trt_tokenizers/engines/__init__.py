"""Engines: token ids in, token ids out. `trt_tokenizers.engines.base` is their interface."""
