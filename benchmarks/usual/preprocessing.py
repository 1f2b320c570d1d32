"""The usual preprocessing: one AutoTokenizer.encode per text, no templates, no checks.

Written for the benchmarks, like the preprocessing of TensorRT-LLM's ensemble since 0.11: it looks
up every optional input, pads rows with numpy and always returns ten outputs, some of them empty.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from transformers import AutoTokenizer

OPTIONAL = (
    "DECODER_QUERY", "BAD_WORDS_DICT", "STOP_WORDS_DICT", "EMBEDDING_BIAS_WORDS",
    "EMBEDDING_BIAS_WEIGHTS", "END_ID", "PAD_ID",
)  # fmt: skip


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.tokenizer = AutoTokenizer.from_pretrained(parameters["tokenizer_dir"]["string_value"])
        self.end_id = self.tokenizer.eos_token_id
        self.pad_id = self.tokenizer.pad_token_id
        if self.pad_id is None:
            self.pad_id = self.end_id

    def execute(self, requests):
        return [self.serve(request) for request in requests]

    def serve(self, request):
        query = pb_utils.get_input_tensor_by_name(request, "QUERY").as_numpy()
        length = pb_utils.get_input_tensor_by_name(request, "REQUEST_OUTPUT_LEN").as_numpy()
        for name in OPTIONAL:
            if pb_utils.get_input_tensor_by_name(request, name) is not None:
                raise NotImplementedError(f"the benchmark sends no {name}")
        texts = [np.array(self.tokenizer.encode(text[0].decode())) for text in query]
        lengths = np.array([[len(ids)] for ids in texts])
        longest = lengths.max()
        padded = [
            np.pad(ids, (0, longest - len(ids)), constant_values=self.pad_id) for ids in texts
        ]
        rows = len(texts)
        ones = np.ones((rows, 1), dtype=np.int32)
        arrays = {
            "INPUT_ID": np.stack(padded).astype(np.int32),
            "REQUEST_INPUT_LEN": lengths.astype(np.int32),
            "DECODER_INPUT_ID": self.pad_id * ones,
            "REQUEST_DECODER_INPUT_LEN": ones,
            "BAD_WORDS_IDS": np.empty((rows, 2, 0), dtype=np.int32),
            "STOP_WORDS_IDS": np.empty((rows, 2, 0), dtype=np.int32),
            "EMBEDDING_BIAS": np.empty((rows, 0), dtype=np.float32),
            "REQUEST_OUTPUT_LEN": length,
            "OUT_END_ID": self.end_id * ones,
            "OUT_PAD_ID": self.pad_id * ones,
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in arrays.items()])
