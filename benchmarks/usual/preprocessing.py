"""The usual preprocessing: one AutoTokenizer.encode per text, no templates, no checks.

Written for the benchmark after what deployments of TensorRT-LLM's ensemble commonly run.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from transformers import AutoTokenizer


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.tokenizer = AutoTokenizer.from_pretrained(parameters["tokenizer_dir"]["string_value"])

    def execute(self, requests):
        return [self.serve(request) for request in requests]

    def serve(self, request):
        query = pb_utils.get_input_tensor_by_name(request, "QUERY").as_numpy()
        length = pb_utils.get_input_tensor_by_name(request, "REQUEST_OUTPUT_LEN").as_numpy()
        ids = [self.tokenizer.encode(text[0].decode()) for text in query]
        arrays = {
            "INPUT_ID": np.array(ids, dtype=np.int32),
            "REQUEST_INPUT_LEN": np.array([[len(row)] for row in ids], dtype=np.int32),
            "REQUEST_OUTPUT_LEN": length.astype(np.int32),
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in arrays.items()])
