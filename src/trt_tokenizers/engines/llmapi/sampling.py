"""Converts the parameters of a request to TensorRT-LLM's SamplingParams, by one table."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

from trt_tokenizers.engines.base import GenerationRequest
from trt_tokenizers.engines.llmapi import compat
from trt_tokenizers.engines.sampling_params import guide_fields, split_stop_words

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of the ensemble, perhaps with several names.

    Attributes:
        names: names in the ensemble.
        becomes: what TensorRT-LLM gets, for docs/llmapi.md.
        values: the fields of SamplingParams; empty if it is passed in another way.
    """

    names: tuple[str, ...]
    becomes: str
    values: Callable[[GenerationRequest], Values] = lambda r: {}


def _single(words: tuple[tuple[int, ...], ...]) -> list[int]:
    return [word[0] for word in words if len(word) == 1]


def _end(r: GenerationRequest) -> Values:
    # For None LLM() needs its tokenizer, which may be missing; -1 is not a token.
    return {"end_id": next(iter(r.end_ids), -1)}


def _stop(r: GenerationRequest) -> Values:
    return {"stop_token_ids": split_stop_words(r)[0] or None, "include_stop_str_in_output": True}


def _unless(name: str, neutral: Any) -> Callable[[GenerationRequest], Values]:
    """The field *name*, called as in `GenerationRequest`, unless its value is *neutral*."""

    def values(r: GenerationRequest) -> Values:
        value = getattr(r, name)
        return {} if value == neutral else {name: value}

    return values


def _sampled(
    values: Callable[[GenerationRequest], Values],
) -> Callable[[GenerationRequest], Values]:
    """Nothing for a greedy request: SamplingParams without these fields is greedy."""
    return lambda r: {} if r.greedy else values(r)


def _seed(r: GenerationRequest) -> Values:
    # Without a seed TensorRT-LLM uses the same one for all requests.
    return {"seed": secrets.randbits(63) if r.seed is None else r.seed}


def _bias(r: GenerationRequest) -> Values:
    if r.embedding_bias is None:
        return {}
    import torch

    return {"embedding_bias": torch.tensor(r.embedding_bias, dtype=torch.float32)}


#: All parameters that the engine supports.
PARAMETERS = (
    Parameter(("max_tokens",), "`max_tokens`", lambda r: {"max_tokens": r.max_tokens}),
    Parameter(("min_tokens", "min_length"), "`min_tokens`", _unless("min_tokens", 1)),
    Parameter(("end_id",), "`end_id`; -1 is none", _end),
    Parameter(("pad_id",), "`pad_id`", _unless("pad_id", None)),
    Parameter(
        ("stop_words",),
        "`stop_token_ids`: words of one token, unless `min_tokens` is above 1; the engine finds "
        "all others in the tokens, postprocessing finds them in the text; the request is aborted",
        _stop,
    ),
    Parameter(
        ("bad_words",),
        "`bad_token_ids`: words of one token; longer ones as ids, without LLM()'s tokenizer",
        lambda r: {"bad_token_ids": _single(r.bad_words) or None},
    ),
    Parameter(
        ("embedding_bias_words", "embedding_bias_weights"),
        "`embedding_bias`, a float32 tensor with one number per token of the vocabulary",
        _bias,
    ),
    Parameter(
        ("temperature",),
        "`temperature`; nothing for a greedy request (`temperature` 0, `top_k` 1, or none of "
        "`temperature`, `top_k`, `top_p`, `min_p` sent)",
        _sampled(lambda r: {"temperature": r.temperature}),
    ),
    Parameter(("top_k",), "`top_k`; nothing for 0", _sampled(_unless("top_k", 0))),
    Parameter(
        ("top_p",),
        "`top_p`; 1 if neither it nor `top_k` was sent, as otherwise nothing would be sampled",
        _sampled(lambda r: {} if r.top_p == 1 and r.top_k else {"top_p": r.top_p}),
    ),
    Parameter(("min_p",), "`min_p`", _sampled(_unless("min_p", 0.0))),
    Parameter(
        ("seed", "random_seed"), "`seed`; drawn for each request without one", _sampled(_seed)
    ),
    Parameter(("repetition_penalty",), "`repetition_penalty`", _unless("repetition_penalty", 1.0)),
    Parameter(("presence_penalty",), "`presence_penalty`", _unless("presence_penalty", 0.0)),
    Parameter(("frequency_penalty",), "`frequency_penalty`", _unless("frequency_penalty", 0.0)),
    Parameter(
        ("return_log_probs",),
        "`logprobs` 1",
        lambda r: {"logprobs": 1} if r.return_log_probs else {},
    ),
    Parameter(
        ("return_perf_metrics",), "`return_perf_metrics`", _unless("return_perf_metrics", False)
    ),
    Parameter(
        ("guided_decoding_guide_type", "guided_decoding_guide"),
        "`guided_decoding`; needs the LLM argument `guided_decoding_backend`",
    ),
    Parameter(("lora_name",), "`lora_request`, by the names in `loras`"),
    Parameter(("num_return_sequences",), "one request per sequence, with consecutive seeds"),
    Parameter(("stream",), "`streaming`"),
    Parameter(("exclude_input_in_output",), "nothing: postprocessing prepends the prompt"),
)


def sampling_params(api: Any, r: GenerationRequest) -> Any:
    """The SamplingParams for *r*.

    Raises:
        ValueError: TensorRT-LLM refuses a value.
        EngineError: this version does not support bad words of several ids.
    """
    values: Values = {"detokenize": False}
    for parameter in PARAMETERS:
        values |= parameter.values(r)
    if r.guide is not None:
        values["guided_decoding"] = api.guided_decoding_params(**guide_fields(r.guide))
    params = api.sampling_params(**values)
    if longer := [word for word in r.bad_words if len(word) > 1]:
        compat.set_bad_words(params, longer)
    return params


def markdown() -> str:
    """The table of parameters in docs/llmapi.md."""
    rows = [
        f"| {', '.join(f'`{name}`' for name in parameter.names)} | {parameter.becomes} |\n"
        for parameter in PARAMETERS
    ]
    return "".join(["| the client sends | TensorRT-LLM gets |\n|---|---|\n", *rows])
