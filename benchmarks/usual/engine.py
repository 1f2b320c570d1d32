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
INDEX = np.zeros((1, 1), dtype=np.int32)  # our engine sends indices only if there are several


class AllOutputs(backend.TritonReply):
    def send(self, arrays, *, final):
        indices = {"batch_index": INDEX, "sequence_index": INDEX}
        kept = {name: arrays[name] for name in ("output_ids", "sequence_length")}
        super().send({**indices, **kept, **EXTRA}, final=final)


class TritonPythonModel(backend.EngineModel):
    reply = AllOutputs
