"""Limits on the length of prompts and answers; preprocessing and Python engines check them."""

from __future__ import annotations

from trt_tokenizers.errors import RequestError

#: Characters allowed per token of the longest sequence; natural text has fewer.
_PER_TOKEN = 16
#: Limit on characters if the longest sequence is unknown, or if longer prompts are truncated.
_CHARACTERS = 5_000_000


def most_characters(max_prompt_chars: int, max_seq_len: int) -> int:
    """Maximum characters of a text to encode. Encoding a million takes about a second.

    Args:
        max_prompt_chars: the operator's limit; 0 if not set.
        max_seq_len: maximum tokens of prompt and answer; 0 if unknown, or if longer prompts are
            truncated.
    """
    return max_prompt_chars or max_seq_len * _PER_TOKEN or _CHARACTERS


def check_characters(characters: int, most: int, name: str) -> None:
    """Check the length of a text before it is encoded.

    Raises:
        RequestError: the text, called *name* in the message, has more than *most* characters.
    """
    if characters > most:
        raise RequestError(
            f"{name} has {characters} characters and at most {most} are served; shorten it, or set "
            "max_prompt_chars of the model preprocessing"
        )


def check_length(prompt_tokens: int, max_tokens: int, max_seq_len: int) -> None:
    """Check that prompt and answer fit the model.

    Args:
        prompt_tokens: number of prompt ids, special tokens included.
        max_tokens: maximum number of ids to generate.
        max_seq_len: maximum of both together; 0 if unknown.

    Raises:
        RequestError: names the value, and the values that are possible.
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
