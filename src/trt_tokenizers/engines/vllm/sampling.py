"""A request's parameters as vLLM's SamplingParams."""

from __future__ import annotations

from typing import Any

from trt_tokenizers.engines.base import GenerationRequest
from trt_tokenizers.engines.sampling_params import common_fields, guide_fields, split_stop_words
from trt_tokenizers.engines.vllm import compat


def sampling_params(api: compat.Api, r: GenerationRequest) -> Any:
    """The SamplingParams of *r*.

    Raises:
        ValueError: vLLM refuses them.
    """
    ids, words = split_stop_words(r)
    values: dict[str, Any] = {
        **common_fields(r),
        "max_tokens": r.max_tokens,
        "min_tokens": r.min_tokens,
        # The request has all its EOS ids; vLLM must not add those of the model.
        "ignore_eos": True,
        "stop_token_ids": [*r.end_ids, *ids],
        "detokenize": False,
        # Stop words that vLLM does not find itself must be looked for as the tokens come.
        "output_kind": api.delta if r.stream or words else api.whole,
        "skip_clone": True,
        **({"temperature": 0.0} if r.greedy else {"seed": r.seed}),
    }
    if r.return_log_probs:
        values["logprobs"] = 0  # that of the chosen token
    if r.embedding_bias is not None:
        biased = r.embedding_bias.nonzero()[0].tolist()
        values["logit_bias"] = {i: float(r.embedding_bias[i]) for i in biased}
    if r.guide is not None:
        values["structured_outputs"] = api.structured_outputs(**guide_fields(r.guide))
    params = api.sampling_params(**values)
    if r.bad_words:
        compat.set_bad_words(params, r.bad_words)
    return params
