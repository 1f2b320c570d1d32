"""Stands for NVIDIA's BLS model: it names the same tensors and calls the same models."""

from __future__ import annotations

import json
from typing import Any

import triton_python_backend_utils as pb_utils

from trt_tokenizers.repository.schemas import schema

_TO_PREPROCESSING = {"text_input": "QUERY", "max_tokens": "REQUEST_OUTPUT_LEN",
                     "bad_words": "BAD_WORDS_DICT", "stop_words": "STOP_WORDS_DICT"}  # fmt: skip
_TO_ENGINE = {"INPUT_ID": "input_ids", "REQUEST_INPUT_LEN": "input_lengths",
              "REQUEST_OUTPUT_LEN": "request_output_len", "BAD_WORDS_IDS": "bad_words_list",
              "STOP_WORDS_IDS": "stop_words_list", "OUT_END_ID": "end_id",
              "OUT_PAD_ID": "pad_id"}  # fmt: skip


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        version = json.loads(args["model_config"])["parameters"]["version"]["string_value"]
        outputs = schema(version)["preprocessing"]["outputs"]
        self._outputs = [line.split()[0] for line in outputs]

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        inputs = [
            pb_utils.Tensor(_TO_PREPROCESSING[tensor.name()], tensor.as_numpy())
            for tensor in request.inputs()
            if tensor.name() in _TO_PREPROCESSING
        ]
        ready = _call("preprocessing", inputs, self._outputs)
        ids = [pb_utils.Tensor(_TO_ENGINE[tensor.name()], tensor.as_numpy())
               for tensor in ready.output_tensors() if tensor.name() in _TO_ENGINE]  # fmt: skip
        wanted = ["output_ids", "sequence_length"]
        made = pb_utils.InferenceRequest(
            model_name="tensorrt_llm", inputs=ids, requested_output_names=wanted
        ).exec(decoupled=True)
        answer = next(each for each in made if each.output_tensors())
        names = {"output_ids": "TOKENS_BATCH", "sequence_length": "SEQUENCE_LENGTH"}
        tokens = [pb_utils.Tensor(names[tensor.name()], tensor.as_numpy())
                  for tensor in answer.output_tensors()]  # fmt: skip
        text = _call("postprocessing", tokens, ["OUTPUT"]).output_tensors()[0].as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", text)])


def _call(model: str, inputs: list[Any], outputs: list[str]) -> Any:
    response = pb_utils.InferenceRequest(
        model_name=model, inputs=inputs, requested_output_names=outputs
    ).exec(decoupled=False)
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return response
