"""Configurations of the usual ensemble, in one repository with ours."""

from __future__ import annotations

from collections.abc import Container

_OUTPUTS = {
    "output_ids": ("INT32", "-1, -1"),
    "sequence_length": ("INT32", "-1"),
    "cum_log_probs": ("FP32", "-1"),
    "output_log_probs": ("FP32", "-1, -1"),
    "context_logits": ("FP32", "-1, -1"),
    "generation_logits": ("FP32", "-1, -1, -1"),
    "batch_index": ("INT32", "1"),
    "sequence_index": ("INT32", "1"),
    "kv_cache_alloc_new_blocks": ("INT32", "1"),
    "kv_cache_reused_blocks": ("INT32", "1"),
    "kv_cache_alloc_total_blocks": ("INT32", "1"),
}
#: Inputs of preprocessing in TensorRT-LLM's ensemble since 0.11.
_QUERY = {
    "QUERY": ("STRING", "1"),
    "DECODER_QUERY": ("STRING", "1"),
    "REQUEST_OUTPUT_LEN": ("INT32", "1"),
    "BAD_WORDS_DICT": ("STRING", "-1"),
    "STOP_WORDS_DICT": ("STRING", "-1"),
    "EMBEDDING_BIAS_WORDS": ("STRING", "-1"),
    "EMBEDDING_BIAS_WEIGHTS": ("FP32", "-1"),
    "END_ID": ("INT32", "1"),
    "PAD_ID": ("INT32", "1"),
}
_ENGINE_IDS = {
    "INPUT_ID": ("INT32", "-1"),
    "REQUEST_INPUT_LEN": ("INT32", "1"),
    "REQUEST_OUTPUT_LEN": ("INT32", "1"),
}
_IDS = {
    **_ENGINE_IDS,
    "DECODER_INPUT_ID": ("INT32", "-1"),
    "REQUEST_DECODER_INPUT_LEN": ("INT32", "1"),
    "BAD_WORDS_IDS": ("INT32", "2, -1"),
    "STOP_WORDS_IDS": ("INT32", "2, -1"),
    "EMBEDDING_BIAS": ("FP32", "-1"),
    "OUT_END_ID": ("INT32", "1"),
    "OUT_PAD_ID": ("INT32", "1"),
}
_INPUTS = {
    "input_ids": ("INT32", "-1"),
    "input_lengths": ("INT32", "1"),
    "request_output_len": ("INT32", "1"),
    "streaming": ("BOOL", "1"),
}


def _tensors(kind: str, tensors: dict[str, tuple[str, str]], optional: Container[str] = ()) -> str:
    return "".join(
        f'{kind} {{ name: "{name}" data_type: TYPE_{dtype} dims: [ {dims} ]'
        f"{' optional: true' if name in optional else ''} }}\n"
        for name, (dtype, dims) in tensors.items()
    )


def _model(
    name: str,
    inputs: dict,
    outputs: dict,
    parameters: dict[str, str],
    more: str = "",
    optional: Container[str] = (),
) -> str:
    return (
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: 64\n'
        + _tensors("input", inputs, optional)
        + _tensors("output", outputs)
        + "".join(
            f'parameters {{ key: "{k}" value: {{ string_value: "{v}" }} }}\n'
            for k, v in parameters.items()
        )
        + more
    )


def _maps(kind: str, pairs: dict[str, str]) -> str:
    return "".join(f'{kind} {{ key: "{k}" value: "{v}" }}\n' for k, v in pairs.items())


def configs(tokenizer_dir: str, engine: dict[str, str]) -> dict[str, str]:
    """Model name -> config.pbtxt."""
    client_outputs = {
        k: v for k, v in _OUTPUTS.items() if k not in ("output_ids", "sequence_length")
    }
    steps = [
        ("usual_preprocessing", {"QUERY": "text_input", "REQUEST_OUTPUT_LEN": "max_tokens"},
         # Only the inputs of the replay engine: further ones would slow the usual ensemble down.
         {name: f"_{name}" for name in _ENGINE_IDS}),
        ("usual_tensorrt_llm",
         {"input_ids": "_INPUT_ID", "input_lengths": "_REQUEST_INPUT_LEN",
          "request_output_len": "_REQUEST_OUTPUT_LEN", "streaming": "stream"},
         {name: f"_{name}" if name not in client_outputs else name for name in _OUTPUTS}),
        ("usual_postprocessing",
         {"TOKENS_BATCH": "_output_ids", "SEQUENCE_LENGTH": "_sequence_length"},
         {"OUTPUT": "text_output"}),
    ]  # fmt: skip
    ensemble = (
        'name: "usual"\nplatform: "ensemble"\nmax_batch_size: 64\n'
        + _tensors("input", {"text_input": ("STRING", "1"), "max_tokens": ("INT32", "1"),
                             "stream": ("BOOL", "1")})
        + _tensors("output", {"text_output": ("STRING", "-1"), **client_outputs})
        + "ensemble_scheduling {\n"
        + "".join(
            f'step {{ model_name: "{name}" model_version: -1\n{_maps("input_map", i)}'
            f'{_maps("output_map", o)}}}\n'
            for name, i, o in steps
        )
        + "}\n"
    )  # fmt: skip
    directory = {"tokenizer_dir": tokenizer_dir}
    return {
        "usual": ensemble,
        "usual_preprocessing": _model(
            "usual_preprocessing",
            _QUERY, _IDS, directory, optional=_QUERY.keys() - {"QUERY", "REQUEST_OUTPUT_LEN"}),
        "usual_tensorrt_llm": _model(
            "usual_tensorrt_llm", _INPUTS, _OUTPUTS, engine,
            "model_transaction_policy { decoupled: true }\n"),
        "usual_postprocessing": _model(
            "usual_postprocessing",
            {"TOKENS_BATCH": ("INT32", "-1, -1"), "SEQUENCE_LENGTH": ("INT32", "-1")},
            {"OUTPUT": ("STRING", "-1")}, directory),
    }  # fmt: skip
