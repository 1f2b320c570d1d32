"""Maximum lengths of prompts and answers, for preprocessing and Python engines."""

from __future__ import annotations

from trt_tokenizers.errors import RequestError

#: Characters served per token of the longest sequence. Words have fewer characters per token.
_PER_TOKEN = 16
#: Characters served if the longest sequence is unknown, or if longer prompts are truncated.
_CHARACTERS = 5_000_000


def most_characters(wanted: int, max_seq_len: int) -> int:
    """Maximum characters of a prompt. A longer one is not encoded: a million takes about 1 s.

    Args:
        wanted: the operator's limit; 0: none.
        max_seq_len: tokens of prompt and answer; 0 if unknown or if longer prompts are truncated.
    """
    return wanted or (max_seq_len * _PER_TOKEN if max_seq_len else _CHARACTERS)


def check_characters(characters: int, most: int, name: str) -> None:
    """Check the length of a text.

    Args:
        characters: its length.
        most: maximum length.
        name: the input, for the error message.

    Raises:
        RequestError: the text is too long.
    """
    if characters > most:
        raise RequestError(
            f"{name} has {characters} characters and at most {most} are served; shorten it, or set "
            "max_prompt_chars of the model preprocessing"
        )


def check_length(prompt_tokens: int, max_tokens: int, max_seq_len: int) -> None:
    """Check that prompt and answer fit into the model.

    Args:
        prompt_tokens: ids of the prompt, special tokens included.
        max_tokens: maximum ids to generate.
        max_seq_len: maximum of both together; 0 if unknown.

    Raises:
        RequestError: names the wrong number and its limit.
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
