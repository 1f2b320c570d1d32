"""How long a prompt and its answer may be; checked by preprocessing and by Python engines."""

from __future__ import annotations

from trt_tokenizers.errors import RequestError

#: Characters that are served for each token of the longest sequence; no text of words has so many.
_PER_TOKEN = 16
#: The same where nobody knows the longest sequence, or longer prompts are cut.
_CHARACTERS = 5_000_000


def most_characters(wanted: int, max_seq_len: int) -> int:
    """Characters of a prompt that are encoded at all: it takes about a second for a million.

    Args:
        wanted: what the operator set; 0: nothing.
        max_seq_len: tokens of prompt and answer; 0 if not known, or if longer prompts are cut.
    """
    return wanted or (max_seq_len * _PER_TOKEN if max_seq_len else _CHARACTERS)


def check_characters(characters: int, most: int, name: str) -> None:
    """
    Raises:
        RequestError: *name*, which is to blame, is longer than any that can be served.
    """
    if characters > most:
        raise RequestError(
            f"{name} has {characters} characters and at most {most} are served; shorten it, or set "
            "max_prompt_chars of the model preprocessing"
        )


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
