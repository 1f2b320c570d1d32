"""A stand-in for TensorRT-LLM's C++ backend: the replay engine with the backend's tensors only.

It has no stream keys, marks no last response, and stops a request when another one with the same
id has ``stop``.
"""

import triton_python_backend_utils as pb_utils

from trt_tokenizers import backend
from trt_tokenizers.engines.tensors import parse_requests

_KNOWN = ("output_ids", "sequence_length", "batch_index", "sequence_index")


class Reply(backend.TritonReply):
    def __init__(self, request, *more):
        super().__init__(request, *more)
        # An output that was not requested crashes the stub of Triton 24.10 on Python 3.12.
        self.wanted = frozenset(_KNOWN).intersection(request.requested_output_names())

    def send(self, arrays, *, final):
        known = {name: array for name, array in arrays.items() if name in self.wanted}
        super().send(known, final=final)


class TritonPythonModel(backend.EngineModel):
    reply = Reply

    def initialize(self, args):
        super().initialize(args)
        self._keys = {}

    def _serve(self, request, reply):
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if "stop" in arrays:
            for key in self._keys.pop(request.request_id(), ()):
                self._server.cancel(key)
            final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            request.get_response_sender().send(flags=final)
            return
        parsed = parse_requests(arrays)
        self._keys[request.request_id()] = [its.key for its in parsed]
        self._server.submit(parsed, reply)
