"""Guides, and what the SamplingParams of TensorRT-LLM and of vLLM have in common."""

from __future__ import annotations

import re
from typing import Any

from trt_tokenizers.engines.base import GenerationRequest
from trt_tokenizers.errors import RequestError
from trt_tokenizers.settings import nearest
from trt_tokenizers.streams.ensemble_inputs import INPUTS

#: Inputs that `common_fields` passes on.
COMMON = [each for each in INPUTS if each.in_sampling_params]
#: Guide type of the ensemble -> field of the class for guides of TensorRT-LLM and vLLM.
GUIDES = {
    "json": "json_object",
    "json_schema": "json",
    "regex": "regex",
    "ebnf_grammar": "grammar",
    "structural_tag": "structural_tag",
}
#: Bytes of a guide. The worst one takes llguidance 3 s; longer ones can end a process.
_MAX_BYTES = 64 << 10
_MAX_BYTES_OF = {"regex": 32 << 10, "ebnf_grammar": 32 << 10}
#: XGrammar's messages begin with the time and the line of its source.
_SOURCE = re.compile(r"\[[\d:]+\] \S+:\d+: ")


def common_fields(r: GenerationRequest) -> dict[str, Any]:
    """The fields that both libraries have with the name, meaning and default of the input."""
    return {
        each.target: value
        for each in COMMON
        if (value := getattr(r, each.target)) != each.default and not (each.samples and r.greedy)
    }


def guide_fields(guide: tuple[str, str]) -> dict[str, str | bool]:
    """The field of the library's class for guides."""
    kind, text = guide
    return {GUIDES[kind]: text if kind != "json" else True}


def check_guide(kind: str, guide: str) -> None:
    """Refuse a guide of an unknown kind, without its text, or too long.

    Raises:
        RequestError: names the input and the fix.
    """
    if kind not in GUIDES:
        raise RequestError(
            f"guided_decoding_guide_type is {kind!r}{nearest(kind, GUIDES)}; it must be one of "
            + ", ".join(GUIDES)
        )
    if not guide and kind != "json":
        raise RequestError(f"guided_decoding_guide is missing; send the {kind}")
    size, most = len(guide.encode()), _MAX_BYTES_OF.get(kind, _MAX_BYTES)
    if size > most:
        raise RequestError(f"guided_decoding_guide has {size} bytes; a {kind} has at most {most}")


def guide_refusal(kind: str, why: str) -> RequestError:
    """The error of a guide that does not compile. *why* is the compiler's message."""
    text = " ".join(_SOURCE.sub("", why).split()).rstrip(".")
    return RequestError(
        f"guided_decoding_guide is no {kind} that this engine can follow: {text}; correct it"
    )


def split_stop_words(r: GenerationRequest) -> tuple[list[int], list[tuple[int, ...]]]:
    """The stop words that the library finds, and those that `event_loop.Stream` must find.

    The libraries find single ids, but not by the rules for min_tokens: TensorRT-LLM ignores
    min_tokens for them, and vLLM would not generate them at all before the minimum.
    """
    if r.min_tokens > 1:
        return [], list(r.stop_words)
    return (
        [word[0] for word in r.stop_words if len(word) == 1],
        [word for word in r.stop_words if len(word) > 1],
    )
