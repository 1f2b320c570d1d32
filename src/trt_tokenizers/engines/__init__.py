"""Engines: token ids in, token ids out, behind one seam (`trt_tokenizers.engines.base`)."""
