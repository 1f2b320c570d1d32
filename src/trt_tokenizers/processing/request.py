"""One request of a client, as preprocessing gets it. No Triton here: arrays in, a dataclass out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from trt_tokenizers.errors import RequestError
from trt_tokenizers.settings import nearest

#: Request parameters that Triton and its clients use themselves.
_TRANSPORT_PARAMETERS = (
    "binary_data_output", "classification", "headers", "id", "priority", "timeout",
    "sequence_id", "sequence_start", "sequence_end",
)  # fmt: skip


@dataclass(slots=True)
class TextRequest:
    """What one request asks of preprocessing, one entry per row where there are several.

    None stands for an input that the client did not send. Names are those of the ensemble.
    """

    rows: int = 1
    text_input: Sequence[bytes] | None = None
    messages: Sequence[bytes] | None = None
    tools: Sequence[bytes] | None = None
    chat_template_kwargs: Sequence[bytes] | None = None
    max_tokens: Sequence[int] | None = None
    stop_words: Sequence[Sequence[bytes]] | None = None
    bad_words: Sequence[Sequence[bytes]] | None = None
    embedding_bias_words: Sequence[Sequence[bytes]] | None = None
    embedding_bias_weights: Sequence[Sequence[float]] | None = None
    end_id: Sequence[int] | None = None
    pad_id: Sequence[int] | None = None
    exclude_input_in_output: Sequence[bool] | None = None
    skip_special_tokens: Sequence[bool] | None = None
    include_stop_str_in_output: Sequence[bool] | None = None
    stream: Sequence[bool] | None = None
    min_tokens: Sequence[int] | None = None
    decoder_text_input: Sequence[bytes] | None = None
    prompt_table_extra_id: Sequence[int] | None = None
    request_id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


#: Tensor of preprocessing -> field of `TextRequest`, for those with one value per row.
_COLUMNS = {
    "QUERY": "text_input",
    "MESSAGES": "messages",
    "TOOLS": "tools",
    "CHAT_TEMPLATE_KWARGS": "chat_template_kwargs",
    "REQUEST_OUTPUT_LEN": "max_tokens",
    "END_ID": "end_id",
    "PAD_ID": "pad_id",
    "EXCLUDE_INPUT_IN_OUTPUT": "exclude_input_in_output",
    "SKIP_SPECIAL_TOKENS": "skip_special_tokens",
    "INCLUDE_STOP_STR_IN_OUTPUT": "include_stop_str_in_output",
    "STREAM": "stream",
    "MIN_LENGTH": "min_tokens",  # the older name
    "MIN_TOKENS": "min_tokens",
    "DECODER_QUERY": "decoder_text_input",
    "PROMPT_TABLE_EXTRA_ID": "prompt_table_extra_id",
}
#: The same for those with a list per row.
_LISTS = {
    "STOP_WORDS_DICT": "stop_words",
    "BAD_WORDS_DICT": "bad_words",
    "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
    "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
}


def from_tensors(
    inputs: Mapping[str, npt.NDArray[Any]], request_id: str, parameters: Mapping[str, Any]
) -> TextRequest:
    """
    Args:
        inputs: tensor name -> array, whose first dimension is the batch.
        request_id: the client's, or empty.
        parameters: of the request, beside its tensors.

    Raises:
        RequestError: an input has several values where one is wanted.
    """
    made = TextRequest(len(next(iter(inputs.values()))))
    made.request_id, made.parameters = request_id, parameters
    for name, array in inputs.items():
        if (column := _COLUMNS.get(name)) is not None:
            if name != "MIN_LENGTH" or "MIN_TOKENS" not in inputs:
                setattr(made, column, _one_per_row(array, name))
        elif (lists := _LISTS.get(name)) is not None:
            setattr(made, lists, array.reshape(len(array), -1).tolist())
    return made


def scalars(inputs: Mapping[str, npt.NDArray[Any]], name: str) -> list[Any] | None:
    """One value per row of the batch, or None if nobody sent the input *name*.

    Raises:
        RequestError: it has several in a row.
    """
    array = inputs.get(name)
    return None if array is None else _one_per_row(array, name)


def _one_per_row(array: npt.NDArray[Any], name: str) -> list[Any]:
    if array.size != len(array):
        raise RequestError(f"{name} has the shape {list(array.shape)}; send one value per row")
    values: list[Any] = array.ravel().tolist()
    return values


_NO_INPUTS = {"rows", "request_id", "parameters"}
_KNOWN_INPUTS = [
    *(f.name for f in dataclasses.fields(TextRequest) if f.name not in _NO_INPUTS),
    "temperature", "top_k", "top_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "min_length", "seed", "random_seed",
    "return_log_probs", "beam_width", "num_return_sequences", "length_penalty",
    "return_perf_metrics", "guided_decoding_guide_type", "guided_decoding_guide", "lora_name",
]  # fmt: skip


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """
    Raises:
        RequestError: one is no input of the ensemble: a misspelt one would be passed over.
    """
    for name in parameters:
        if name not in _TRANSPORT_PARAMETERS and not name.startswith("triton_"):
            raise RequestError(
                f"unknown parameter {name!r}{nearest(name, _KNOWN_INPUTS)}; "
                "this server's ensemble has no such input, leave it out"
            )


def at_row(values: Sequence[Any] | None, at: int, default: Any) -> Any:
    """The value of row *at*, or *default* where the client sent none."""
    return default if values is None else values[at]


def text_at(values: Sequence[bytes] | None, at: int, name: str) -> str:
    """The text of row *at*, empty where the client sent none.

    Raises:
        RequestError: it is not UTF-8; *name* is the input to blame.
    """
    return "" if values is None else text_of(values[at], name)


def text_of(value: bytes, name: str) -> str:
    """
    Raises:
        RequestError: *value* is not UTF-8; *name* is the input to blame.
    """
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{name} is not valid UTF-8: {error.reason} at byte {error.start}; send UTF-8"
        ) from None
