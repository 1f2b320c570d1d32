"""Tensors of gRPC messages, against tritonclient's own."""

from __future__ import annotations

import numpy as np
from tritonclient.grpc import InferInput, service_pb2

from trt_tokenizers.openai.tensors import Step, pack, step_of, unpack

TYPES = {
    "text": ("BYTES", np.object_, ["é".encode()]),
    "words": ("BYTES", np.object_, [b"a", b"", b"b c"]),
    "n": ("INT32", np.int32, [-3]),
    "ids": ("INT32", np.int32, [1, 2, 3]),
    "seed": ("UINT64", np.uint64, [2**64 - 1]),
    "p": ("FP32", np.float32, [0.5]),
    "stream": ("BOOL", np.bool_, [True]),
}


def test_inputs_are_those_of_tritonclient() -> None:
    request = service_pb2.ModelInferRequest()
    values = {name: v if len(v) > 1 else v[0] for name, (_, _, v) in TYPES.items()}
    pack(request, values, {name: kind for name, (kind, _, _) in TYPES.items()})
    for tensor, raw, (name, (kind, dtype, value)) in zip(
        request.inputs, request.raw_input_contents, TYPES.items(), strict=True
    ):
        usual = InferInput(name, [1, len(value)], kind)
        usual.set_data_from_numpy(np.array([value], dtype=dtype))
        assert tensor == usual._get_tensor()
        assert raw == usual._get_content()
        assert unpack(kind, raw) == value


def test_a_response_becomes_a_step() -> None:
    response = service_pb2.ModelInferResponse()

    def add(name: str, raw: bytes) -> None:
        response.outputs.add(name=name)
        response.raw_output_contents.append(raw)

    def text(value: str) -> bytes:
        return len(value.encode()).to_bytes(4, "little") + value.encode()

    add("text_output", text("héllo"))
    add("finish_reason", text("stop"))
    add("sequence_index", np.int32(2).tobytes())
    add("num_input_tokens", np.int32(5).tobytes())
    add("num_output_tokens", np.int32(7).tobytes())
    add("added_tokens", np.array([0, 5, 1, -1, -1, -1], np.int32).tobytes())
    add("prompt_end", text("<think>"))
    add("output_log_probs", np.array([-0.5], np.float32).tobytes())
    add("output_tokens", text("hé"))
    add("batch_index", np.int32(0).tobytes())
    assert step_of(response) == Step(
        2, "héllo", "stop", 5, 7, [0, 5, 1], "<think>", [-0.5], ["hé".encode()]
    )
    assert step_of(service_pb2.ModelInferResponse()) == Step()
