"""The replay engine behind TensorRT-LLM's own tensors only, as the C++ backend is met.

A stand-in for TensorRT-LLM's C++ backend: it knows nothing of stream keys and says nothing of ends
but by ending.
"""

from trt_tokenizers import backend

_KNOWN = ("output_ids", "sequence_length", "batch_index", "sequence_index")


class Reply(backend.TritonReply):
    def __init__(self, request):
        super().__init__(request)
        self.wanted = frozenset(_KNOWN)

    def send(self, arrays, *, final):
        super().send({name: arrays[name] for name in _KNOWN}, final=final)


class TritonPythonModel(backend.EngineModel):
    reply = Reply
