"""Every ``${placeholder}`` of NVIDIA's templates for the TensorRT-LLM ensemble, as a table.

The names come from the templates of the versions in `schemas.VERSIONS`. We wrote the meanings. The
defaults are those of the C++ backend. Where a file needs a value, the default is one that works.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from trt_tokenizers.repository.schemas import VERSIONS, schema
from trt_tokenizers.settings import as_text, is_number, parse_bool


@dataclass(frozen=True)
class Setting:
    """One value that a user can set.

    Attributes:
        name: the placeholder.
        type: string, path, int, float, bool, ints (comma-separated), JSON, data type, or the
            allowed values separated by ``|``.
        default: the meaning of an empty value; empty: not set.
        models: the models whose config.pbtxt has it.
        parameter: its key in ``parameters``; empty: a field of the configuration itself.
        since, until: the first and last surveyed TensorRT-LLM version that has it; empty: none.
        engine: the engine that reads it; empty: it is not an engine's.
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
        """What is wrong with *value* and what it must be; None if it is valid.

        An empty value is valid: it means the default.
        """
        wanted = _expected(self.type, value) if value else None
        return f"{self.name} is {value!r}; it must be {wanted}" if wanted else None


def _expected(kind: str, value: str) -> str | None:
    """A description of the type *kind* if *value* is not of it, else None."""
    valid, wanted = True, kind
    if kind == "int":
        valid, wanted = is_number(int, value), "a whole number"
    elif kind == "float":
        valid, wanted = is_number(float, value), "a number"
    elif kind == "bool":
        valid, wanted = parse_bool(value) is not None, "true or false"
    elif kind == "ints":
        valid = all(is_number(int, part) for part in value.split(","))
        wanted = "comma-separated whole numbers"
    elif kind == "data type":
        valid, wanted = value.startswith("TYPE_"), "a Triton data type such as TYPE_FP32"
    elif "|" in kind:
        choices = kind.split("|")
        valid = value.strip().lower() in [choice.lower() for choice in choices]
        wanted = f"one of {', '.join(choices)}"
    return None if valid else wanted


def _parameter(
    name: str, kind: str, default: str, meaning: str, models: tuple[str, ...]
) -> Setting:
    return Setting(name, kind, default, meaning, models, parameter=name)


def _engine(
    name: str, kind: str, default: str, meaning: str, parameter: str | None = None
) -> Setting:
    """A setting of the C++ backend. Its parameter has the setting's name by default."""
    key = name if parameter is None else parameter
    return Setting(name, kind, default, meaning, ("tensorrt_llm",), key, engine="tensorrtllm")


_PRE, _POST = ("preprocessing",), ("postprocessing",)
_BLS = ("tensorrt_llm_bls",)
_ALL = ("ensemble", "preprocessing", "tensorrt_llm", "postprocessing", *_BLS)

_SETTINGS = (
    Setting("triton_max_batch_size", "int", "64", "maximum requests in one batch", _ALL),
    Setting("logits_datatype", "data type", "TYPE_FP32", "data type of returned logits",
            ("ensemble", "tensorrt_llm", *_BLS)),
    Setting("preprocessing_instance_count", "int", "2", "instances, one process each", _PRE),
    Setting("postprocessing_instance_count", "int", "1",
            "must be 1: several instances would mix the chunks of a stream", _POST),
    _parameter("tokenizer_dir", "path", "", "the tokenizer's folder",
            (*_PRE, *_POST, "tensorrt_llm")),
    _parameter("tokenizer_type", "string", "auto", "how to load that folder: auto, llama, t5, …",
            (*_PRE, *_POST)),
    _parameter("add_special_tokens", "bool", "true", "let the tokenizer add BOS and EOS to prompts",
            _PRE),
    _parameter("skip_special_tokens", "bool", "true", "remove special tokens from the text", _POST),
    _parameter("visual_model_path", "path", "", "engine of the vision encoder", _PRE),
    _parameter("multimodal_model_path", "path", "", "engine of the image or audio encoder", _PRE),
    _parameter("hf_model_path", "path", "", "Hugging Face folder of a multimodal model", _PRE),
    _parameter("max_num_images", "int", "", "maximum images in one request", _PRE),
    Setting("bls_instance_count", "int", "1", "number of BLS model instances", _BLS),
    _parameter("accumulate_tokens", "bool", "false", "BLS: chunks repeat the previous text", _BLS),
    _parameter("tensorrt_llm_model_name", "string", "tensorrt_llm", "BLS: the engine model", _BLS),
    _parameter("tensorrt_llm_draft_model_name", "string", "", "BLS: the draft model", _BLS),
    _parameter("multimodal_encoders_name", "string", "", "BLS: the encoders' model", _BLS),
    Setting("decoupled_mode", "bool", "true", "allow several responses per request, for streams",
            ("tensorrt_llm", *_BLS)),
    _engine("triton_backend", "tensorrtllm|python", "tensorrtllm",
            "the C++ backend, or NVIDIA's Python model", ""),
    _engine("max_queue_delay_microseconds", "int", "0", "maximum wait to fill a batch", ""),
    _engine("max_queue_size", "int", "0", "maximum waiting requests; 0: no limit", ""),
    _engine("encoder_input_features_data_type", "data type", "TYPE_FP16",
            "data type of an encoder's input features", ""),
    _engine("prompt_embedding_table_data_type", "data type", "TYPE_FP16",
            "data type of the prompt embedding table", ""),
    _engine("engine_dir", "path", "", "folder with config.json and rankN.engine", "gpt_model_path"),
    _engine("encoder_engine_dir", "path", "", "engine folder of the encoder", "encoder_model_path"),
    _engine("batching_strategy", "V1|inflight_batching|inflight_fused_batching",
            "inflight_fused_batching", "add requests to a running batch, or wait for the next (V1)",
            "gpt_model_type"),
    _engine("batch_scheduler_policy",
            "guaranteed_no_evict|max_utilization|static_batch|guaranteed_completion",
            "guaranteed_no_evict", "never pause a started request, or maximize the batch"),
    _engine("enable_trt_overlap", "bool", "false", "overlap two batches on one GPU"),
    _engine("kv_cache_free_gpu_mem_fraction", "float", "0.9",
            "fraction of the GPU memory left after loading the weights, for the KV cache"),
    _engine("max_num_sequences", "int", "", "maximum sequences in flight"),
    _engine("max_tokens_in_paged_kv_cache", "int", "",
            "maximum tokens in the KV cache; the smaller of this and the fraction applies"),
    # Between the surveyed versions, so no schema has it.
    replace(_engine("max_kv_cache_length", "int", "", "older name of max_attention_window_size"),
            since="0.6", until="0.10"),
    _engine("max_attention_window_size", "ints", "",
            "attention window in tokens; a window below the sequence length slides"),
    _engine("sink_token_length", "int", "", "first tokens of a sequence that stay in the window"),
    _engine("max_beam_width", "int", "1", "maximum beams per request"),
    _engine("exclude_input_in_output", "bool", "false", "omit the prompt unless streaming"),
    _engine("cancellation_check_period_ms", "int", "100", "interval of cancellation checks"),
    _engine("stats_check_period_ms", "int", "100", "interval of metrics updates"),
    _engine("iter_stats_max_iterations", "int", "1000", "iterations with stored statistics"),
    _engine("request_stats_max_iterations", "int", "0", "iterations with request statistics"),
    _engine("enable_kv_cache_reuse", "bool", "false", "share the cache of common prompt prefixes"),
    _engine("normalize_log_probs", "bool", "true", "divide a beam's log-probability by its length"),
    _engine("enable_chunked_context", "bool", "false", "split long prompts into chunks"),
    _engine("gpu_device_ids", "string", "", "GPUs to use, for example 0,1"),
    _engine("participant_ids", "ints", "", "MPI ranks to use, if the leader spawns workers"),
    _engine("num_nodes", "int", "1", "number of hosts, if the leader spawns workers"),
    _engine("lora_cache_optimal_adapter_size", "int", "8", "adapter size that sets the page size"),
    _engine("lora_cache_max_adapter_size", "int", "64", "maximum adapter size"),
    _engine("lora_cache_gpu_memory_fraction", "float", "0.05",
            "fraction of the free GPU memory for adapters"),
    _engine("lora_cache_host_memory_bytes", "int", "1073741824", "host memory for adapters"),
    _engine("lora_prefetch_dir", "path", "", "adapters to load at startup"),
    _engine("decoding_mode", "string", "",
            "top_k, top_p, top_k_top_p, beam_search, medusa, lookahead, eagle, redrafter"),
    _engine("medusa_choices", "JSON", "", "Medusa tree, a list of lists"),
    _engine("eagle_choices", "JSON", "", "EAGLE tree, a list of lists"),
    _engine("lookahead_window_size", "int", "", "window size of lookahead decoding"),
    _engine("lookahead_ngram_size", "int", "", "n-gram size of lookahead decoding"),
    _engine("lookahead_verification_set_size", "int", "", "size of lookahead's verification set"),
    _engine("gpu_weights_percent", "float", "1.0", "fraction of the weights kept on the GPU"),
    _engine("kv_cache_host_memory_bytes", "int", "0", "host memory for offloaded KV cache blocks"),
    _engine("kv_cache_onboard_blocks", "bool", "true", "copy offloaded blocks back before use"),
    _engine("cross_kv_cache_fraction", "float", "", "share of the KV cache for cross attention"),
    _engine("enable_context_fmha_fp32_acc", "bool", "", "accumulate context attention in fp32"),
    _engine("multi_block_mode", "bool", "true", "several thread blocks per sequence"),
    _engine("cuda_graph_mode", "bool", "false", "run generation steps as CUDA graphs"),
    _engine("cuda_graph_cache_size", "int", "0", "maximum cached CUDA graphs"),
    _engine("speculative_decoding_fast_logits", "bool", "false",
            "the draft model sends its logits directly"),
    _engine("guided_decoding_backend", "string", "", "xgrammar, for answers that follow a grammar"),
    _engine("xgrammar_tokenizer_info_path", "path", "", "tokenizer information for xgrammar"),
)  # fmt: skip


def _with_versions(setting: Setting) -> Setting:
    versions = [
        version
        for version in VERSIONS
        if any(setting.name in m.get("placeholders", ()) for m in schema(version).values())
    ]
    return replace(setting, since=versions[0], until=versions[-1]) if versions else setting


#: Placeholder -> setting.
NVIDIA_SETTINGS = {setting.name: _with_versions(setting) for setting in _SETTINGS}


def normalized(name: str, value: str) -> str:
    """*value*, but a bool as a word that Triton's text format and the C++ backend know."""
    setting = NVIDIA_SETTINGS.get(name)
    flag = parse_bool(value) if setting is not None and setting.type == "bool" else None
    return value if flag is None or value == str(flag) else as_text(flag)


#: Parameters with a fixed value in the templates.
FIXED = {
    "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
}

#: Every valid key in ``parameters`` of a model with the C++ backend.
ENGINE_PARAMETERS = frozenset(
    {s.parameter for s in NVIDIA_SETTINGS.values() if "tensorrt_llm" in s.models and s.parameter}
    | set(FIXED)
)
