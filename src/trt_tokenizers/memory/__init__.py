"""Sizes of models, engines and GPUs, and the estimate of the memory of each GPU."""
