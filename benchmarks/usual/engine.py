"""The replay engine with all outputs of TensorRT-LLM's C++ backend in every response."""

import numpy as np

from trt_tokenizers import backend

EXTRA = {
    "cum_log_probs": np.zeros((1, 1), dtype=np.float32),
    "output_log_probs": np.zeros((1, 1, 1), dtype=np.float32),
    "context_logits": np.zeros((1, 1, 1), dtype=np.float32),
    "generation_logits": np.zeros((1, 1, 1, 1), dtype=np.float32),
    "kv_cache_alloc_new_blocks": np.zeros((1, 1), dtype=np.int32),
    "kv_cache_reused_blocks": np.zeros((1, 1), dtype=np.int32),
    "kv_cache_alloc_total_blocks": np.zeros((1, 1), dtype=np.int32),
}
KEPT = ("output_ids", "sequence_length", "batch_index", "sequence_index")


class AllOutputs(backend.TritonReply):
    def send(self, arrays, *, final):
        super().send({**{name: arrays[name] for name in KEPT}, **EXTRA}, final=final)


class TritonPythonModel(backend.EngineModel):
    reply = AllOutputs
