"""What the SamplingParams of TensorRT-LLM and of vLLM have in common."""

from __future__ import annotations

from trt_tokenizers.engines.base import GenerationRequest

#: Guide type of the ensemble -> field of the library's class for guides.
GUIDES = {
    "json": "json_object",
    "json_schema": "json",
    "regex": "regex",
    "ebnf_grammar": "grammar",
    "structural_tag": "structural_tag",
}


def guide_fields(guide: tuple[str, str]) -> dict[str, str | bool]:
    """The field of the library's class for guides."""
    kind, text = guide
    return {GUIDES[kind]: text if kind != "json" else True}


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
