"""Every ``${placeholder}`` of NVIDIA's templates for the TensorRT-LLM ensemble, as a table.

Surveyed were the templates of TensorRT-LLM 0.5, 0.11, 0.17 and 1.2: `since` and `until` name the
first and the last of them that have a placeholder. Meanings are ours, defaults the C++ backend's
or, where a file would not be valid without a value, ones that serve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SURVEYED = ("0.5", "0.11", "0.17", "1.2")
_BOOLS = frozenset({"true", "false", "1", "0", "t", "f"})


@dataclass(frozen=True)
class Setting:
    """One thing that can be set.

    Attributes:
        name: the placeholder's, or our parameter's.
        type: string, path, int, float, bool, ints (with commas), JSON, data type, or choices
            with ``|``.
        default: what an empty value means; empty: not set.
        models: in whose config.pbtxt.
        parameter: the key in ``parameters``; empty: a field of the configuration itself.
        since, until: TensorRT-LLM versions; empty: no bound.
        engine: whose it is: tensorrtllm, transformers or both (empty).
    """

    name: str
    type: str
    default: str
    meaning: str
    models: tuple[str, ...]
    parameter: str = ""
    since: str = ""
    until: str = ""
    engine: str = ""

    def problem(self, value: str) -> str | None:
        """What is wrong with *value*, with what it must be; None if nothing. Empty is never
        wrong: it means the default."""
        wanted = _wanted(self.type, value) if value else None
        return f"{self.name} is {value!r}; it must be {wanted}" if wanted else None


def _wanted(kind: str, value: str) -> str | None:
    """What a value of this type must be, unless *value* is one."""
    lower = value.strip().lower()
    good, wanted = True, kind
    if kind == "int":
        good, wanted = _is_number(int, value), "a whole number"
    elif kind == "float":
        good, wanted = _is_number(float, value), "a number"
    elif kind == "bool":
        good, wanted = lower in _BOOLS, "true or false"
    elif kind == "ints":
        good = all(_is_number(int, part) for part in value.split(","))
        wanted = "whole numbers with commas"
    elif kind == "data type":
        good, wanted = value.startswith("TYPE_"), "a data type of Triton's, as TYPE_FP32"
    elif "|" in kind:
        known = kind.split("|")
        good, wanted = lower in [word.lower() for word in known], f"one of {', '.join(known)}"
    return None if good else wanted


def _is_number(kind: type[int] | type[float], text: str) -> bool:
    try:
        return math.isfinite(kind(text))
    except (ValueError, OverflowError):
        return False


def _engine(  # noqa: PLR0917 - a row of the table below
    name: str, kind: str, default: str, meaning: str, since: str = "0.11", until: str = "1.2",
    parameter: str | None = None,
) -> Setting:  # fmt: skip
    key = name if parameter is None else parameter
    return Setting(
        name, kind, default, meaning, ("tensorrt_llm",), key, since, until, "tensorrtllm"
    )


_ALL = ("ensemble", "preprocessing", "tensorrt_llm", "postprocessing")
_TEXT = ("preprocessing", "postprocessing")
_BLS = ("tensorrt_llm_bls",)

#: By placeholder. Meanings say what the C++ backend does with them.
UPSTREAM: dict[str, Setting] = {s.name: s for s in (
    Setting("triton_max_batch_size", "int", "64", "requests of one batch at the most",
            (*_ALL, *_BLS), since="0.11", until="1.2"),
    Setting("logits_datatype", "data type", "TYPE_FP32", "of the logits that can be asked for",
            ("ensemble", "tensorrt_llm", *_BLS), since="0.17", until="1.2"),
    Setting("preprocessing_instance_count", "int", "2", "copies of preprocessing, one process each",
            ("preprocessing",), since="0.11", until="1.2"),
    Setting("postprocessing_instance_count", "int", "1",
            "one: several would mix the chunks of a stream up", ("postprocessing",),
            since="0.11", until="1.2"),
    Setting("tokenizer_dir", "path", "", "the tokenizer's folder",
            (*_TEXT, "tensorrt_llm"), "tokenizer_dir", "0.5", "1.2"),
    Setting("tokenizer_type", "string", "auto", "how to read that folder: auto, llama, t5, …",
            _TEXT, "tokenizer_type", "0.5", "0.5"),
    Setting("add_special_tokens", "bool", "true", "let the tokenizer add BOS (and EOS) to a prompt",
            ("preprocessing",), "add_special_tokens", "0.11", "1.2"),
    Setting("skip_special_tokens", "bool", "true", "leave special tokens out of the text",
            ("postprocessing",), "skip_special_tokens", "0.11", "1.2"),
    Setting("visual_model_path", "path", "", "engine of the vision encoder", ("preprocessing",),
            "visual_model_path", "0.17", "0.17"),
    Setting("multimodal_model_path", "path", "", "engine of the encoder of images or audio",
            ("preprocessing",), "multimodal_model_path", "1.2", "1.2"),
    Setting("hf_model_path", "path", "", "a multimodal model's folder in Hugging Face's layout",
            ("preprocessing",), "hf_model_path", "1.2", "1.2"),
    Setting("max_num_images", "int", "", "images of a request at the most", ("preprocessing",),
            "max_num_images", "0.17", "1.2"),
    Setting("bls_instance_count", "int", "1", "copies of the BLS model", _BLS,
            since="0.11", until="1.2"),
    Setting("accumulate_tokens", "bool", "false", "BLS: each chunk repeats the text so far", _BLS,
            "accumulate_tokens", "0.11", "1.2"),
    Setting("tensorrt_llm_model_name", "string", "tensorrt_llm", "BLS: the engine's model", _BLS,
            "tensorrt_llm_model_name", "0.11", "1.2"),
    Setting("tensorrt_llm_draft_model_name", "string", "", "BLS: the draft model", _BLS,
            "tensorrt_llm_draft_model_name", "0.11", "1.2"),
    Setting("multimodal_encoders_name", "string", "", "BLS: the encoders' model", _BLS,
            "multimodal_encoders_name", "0.17", "1.2"),
    Setting("decoupled_mode", "bool", "true", "several responses to a request: needed for streams",
            ("tensorrt_llm", *_BLS), since="0.5", until="1.2"),
    _engine("triton_backend", "tensorrtllm|python", "tensorrtllm",
            "the C++ backend, or NVIDIA's Python model", parameter=""),
    _engine("max_queue_delay_microseconds", "int", "0", "wait so long to fill a batch",
            parameter=""),
    _engine("max_queue_size", "int", "0", "requests that may wait, others are refused; 0: any",
            "0.17", parameter=""),
    _engine("encoder_input_features_data_type", "data type", "TYPE_FP16",
            "of an encoder's input features", "0.17", parameter=""),
    _engine("prompt_embedding_table_data_type", "data type", "TYPE_FP16",
            "of the prompt embedding table", "1.2", parameter=""),
    _engine("engine_dir", "path", "", "the engine's folder: config.json and rankN.engine",
            "0.5", parameter="gpt_model_path"),
    _engine("encoder_engine_dir", "path", "", "the encoder's engine folder, of such models",
            parameter="encoder_model_path"),
    _engine("batching_strategy", "V1|inflight_batching|inflight_fused_batching",
            "inflight_fused_batching", "requests join a running batch, or wait for the next (V1)",
            parameter="gpt_model_type"),
    _engine("batch_scheduler_policy",
            "guaranteed_no_evict|max_utilization|static_batch|guaranteed_completion",
            "guaranteed_no_evict", "never pause a request once begun, or fill the batch", "0.5"),
    _engine("enable_trt_overlap", "bool", "false", "overlap two batches on one GPU", "0.5"),
    _engine("kv_cache_free_gpu_mem_fraction", "float", "0.9",
            "share of the GPU's memory, left free by the weights, that the KV cache takes", "0.5"),
    _engine("max_num_sequences", "int", "", "sequences in flight at the most", "0.5", "0.5"),
    _engine("max_tokens_in_paged_kv_cache", "int", "",
            "tokens that the KV cache holds; the smaller of this and the fraction counts", "0.5"),
    _engine("max_kv_cache_length", "int", "", "older name of max_attention_window_size",
            "0.6", "0.10"),
    _engine("max_attention_window_size", "ints", "",
            "tokens that a layer looks back; shorter than a sequence: sliding window"),
    _engine("sink_token_length", "int", "", "tokens at the beginning that stay in the window"),
    _engine("max_beam_width", "int", "1", "beams of a request at the most"),
    _engine("exclude_input_in_output", "bool", "false",
            "leave the prompt out of answers that do not stream"),
    _engine("cancellation_check_period_ms", "int", "100", "look for cancelled requests so often"),
    _engine("stats_check_period_ms", "int", "100", "update the metrics so often"),
    _engine("iter_stats_max_iterations", "int", "1000", "iterations whose statistics are kept"),
    _engine("request_stats_max_iterations", "int", "0", "the same, by request"),
    _engine("enable_kv_cache_reuse", "bool", "false", "prompts with an equal beginning share it"),
    _engine("normalize_log_probs", "bool", "true", "divide a beam's log-probability by its length"),
    _engine("enable_chunked_context", "bool", "false", "cut long prompts up, others run between"),
    _engine("gpu_device_ids", "string", "", "GPUs to use, as 0,1"),
    _engine("participant_ids", "ints", "", "MPI ranks to use, where the leader spawns workers",
            "0.17"),
    _engine("num_nodes", "int", "1", "hosts, where the leader spawns workers", "1.2"),
    _engine("lora_cache_optimal_adapter_size", "int", "8", "adapter size that cache pages fit"),
    _engine("lora_cache_max_adapter_size", "int", "64", "largest adapter"),
    _engine("lora_cache_gpu_memory_fraction", "float", "0.05", "of the free memory, for adapters"),
    _engine("lora_cache_host_memory_bytes", "int", "1073741824", "host memory for adapters"),
    _engine("lora_prefetch_dir", "path", "", "adapters to load at the start", "1.2"),
    _engine("decoding_mode", "string", "",
            "top_k, top_p, top_k_top_p, beam_search, medusa, lookahead, eagle, redrafter"),
    _engine("medusa_choices", "JSON", "", "Medusa's tree, as a list of lists"),
    _engine("eagle_choices", "JSON", "", "EAGLE's tree, as a list of lists", "0.17"),
    _engine("lookahead_window_size", "int", "", "of lookahead decoding", "1.2"),
    _engine("lookahead_ngram_size", "int", "", "of lookahead decoding", "1.2"),
    _engine("lookahead_verification_set_size", "int", "", "of lookahead decoding", "1.2"),
    _engine("gpu_weights_percent", "float", "1.0", "share of the weights that stay on the GPU"),
    _engine("kv_cache_host_memory_bytes", "int", "0", "host memory for parts of the KV cache"),
    _engine("kv_cache_onboard_blocks", "bool", "true", "copy such parts back before they are used"),
    _engine("cross_kv_cache_fraction", "float", "", "share of the KV cache for cross attention",
            "0.17"),
    _engine("enable_context_fmha_fp32_acc", "bool", "", "prompts' attention sums up in fp32",
            "0.17"),
    _engine("multi_block_mode", "bool", "true", "several blocks share a sequence's attention",
            "0.17"),
    _engine("cuda_graph_mode", "bool", "false", "run generation steps as CUDA graphs", "0.17"),
    _engine("cuda_graph_cache_size", "int", "0", "CUDA graphs that are kept", "0.17"),
    _engine("speculative_decoding_fast_logits", "bool", "false",
            "the draft model hands its logits on directly", "0.17"),
    _engine("guided_decoding_backend", "string", "", "xgrammar: answers that follow a grammar",
            "1.2"),
    _engine("xgrammar_tokenizer_info_path", "path", "", "the tokenizer's facts for xgrammar",
            "1.2"),
)}  # fmt: skip

#: Parameters that the templates set without a placeholder.
FIXED = {
    "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
}

#: Every key that ``parameters`` of a TensorRT-LLM engine's model may hold.
ENGINE_PARAMETERS = frozenset(
    {s.parameter for s in UPSTREAM.values() if "tensorrt_llm" in s.models and s.parameter}
    | set(FIXED)
)
