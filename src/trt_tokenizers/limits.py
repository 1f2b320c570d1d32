"""How long a prompt and its answer may be; checked by preprocessing and by Python engines."""

from __future__ import annotations

from trt_tokenizers.errors import RequestError


def check_length(prompt_tokens: int, max_tokens: int, max_seq_len: int) -> None:
    """
    Args:
        prompt_tokens: ids of the prompt, special tokens included.
        max_tokens: ids to generate at the most.
        max_seq_len: both together, at the most; 0 if not known.

    Raises:
        RequestError: names the number that is wrong and what it may be.
    """
    if prompt_tokens < 1:
        raise RequestError("the prompt is empty; send text_input or messages with some text")
    if max_tokens < 1:
        raise RequestError(f"max_tokens is {max_tokens}; it must be at least 1")
    if not max_seq_len:
        return
    if prompt_tokens >= max_seq_len:
        raise RequestError(
            f"the prompt has {prompt_tokens} tokens and the model takes {max_seq_len} in all; "
            "shorten the prompt"
        )
    if prompt_tokens + max_tokens > max_seq_len:
        raise RequestError(
            f"max_tokens is {max_tokens} and the prompt has {prompt_tokens} tokens, but the model "
            f"takes {max_seq_len} in all; max_tokens may be at most {max_seq_len - prompt_tokens}"
        )
