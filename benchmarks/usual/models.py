"""Configurations of the usual way, beside ours in one repository."""

from __future__ import annotations

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
_INPUTS = {
    "input_ids": ("INT32", "-1"),
    "input_lengths": ("INT32", "1"),
    "request_output_len": ("INT32", "1"),
    "streaming": ("BOOL", "1"),
}


def _tensors(kind: str, tensors: dict[str, tuple[str, str]]) -> str:
    return "".join(
        f'{kind} {{ name: "{name}" data_type: TYPE_{dtype} dims: [ {dims} ] }}\n'
        for name, (dtype, dims) in tensors.items()
    )


def _model(
    name: str, inputs: dict, outputs: dict, parameters: dict[str, str], more: str = ""
) -> str:
    return (
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: 64\n'
        + _tensors("input", inputs)
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
    ids = {
        "INPUT_ID": ("INT32", "-1"),
        "REQUEST_INPUT_LEN": ("INT32", "1"),
        "REQUEST_OUTPUT_LEN": ("INT32", "1"),
    }
    steps = [
        ("usual_preprocessing", {"QUERY": "text_input", "REQUEST_OUTPUT_LEN": "max_tokens"},
         {name: f"_{name}" for name in ids}),
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
            {"QUERY": ("STRING", "1"), "REQUEST_OUTPUT_LEN": ("INT32", "1")}, ids, directory),
        "usual_tensorrt_llm": _model(
            "usual_tensorrt_llm", _INPUTS, _OUTPUTS, engine,
            "model_transaction_policy { decoupled: true }\n"),
        "usual_postprocessing": _model(
            "usual_postprocessing",
            {"TOKENS_BATCH": ("INT32", "-1, -1"), "SEQUENCE_LENGTH": ("INT32", "-1")},
            {"OUTPUT": ("STRING", "-1")}, directory),
    }  # fmt: skip
