"""A request's parameters as TensorRT-LLM's SamplingParams; docs/llmapi.md describes them."""

from __future__ import annotations

import secrets
from typing import Any

from trt_tokenizers.engines.base import GenerationRequest
from trt_tokenizers.engines.llmapi import compat
from trt_tokenizers.engines.sampling_params import common_fields, guide_fields, split_stop_words


def sampling_params(api: compat.Api, r: GenerationRequest) -> Any:
    """The SamplingParams of *r*.

    Raises:
        ValueError: TensorRT-LLM refuses a value.
    """
    values: dict[str, Any] = {
        **common_fields(r),
        "max_tokens": r.max_tokens,
        # For None LLM() needs its tokenizer, which may be missing; -1 is not a token.
        "end_id": next(iter(r.end_ids), -1),
        "pad_id": r.pad_id,
        "stop_token_ids": split_stop_words(r)[0] or None,
        "include_stop_str_in_output": True,
        "bad_token_ids": [word[0] for word in r.bad_words if len(word) == 1] or None,
        "return_perf_metrics": r.return_perf_metrics,
        "detokenize": False,
    }
    if r.min_tokens != 1:
        values["min_tokens"] = r.min_tokens
    if not r.greedy:  # SamplingParams without these fields is greedy
        values["temperature"] = r.temperature
        # Without a seed TensorRT-LLM uses the same one for all requests.
        values["seed"] = secrets.randbits(63) if r.seed is None else r.seed
        if not r.top_k:
            values["top_p"] = r.top_p
    if r.return_log_probs:
        values["logprobs"] = 1
    if r.embedding_bias is not None:
        import torch

        values["embedding_bias"] = torch.tensor(r.embedding_bias, dtype=torch.float32)
    if r.guide is not None:
        values["guided_decoding"] = api.guided_decoding_params(**guide_fields(r.guide))
    params = api.sampling_params(**values)
    if longer := [word for word in r.bad_words if len(word) > 1]:
        compat.set_bad_words(params, longer)
    return params
