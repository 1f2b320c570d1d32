"""One client request as preprocessing gets it: arrays in, a dataclass out. No Triton here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from trt_tokenizers.errors import RequestError
from trt_tokenizers.settings import nearest
from trt_tokenizers.streams.ensemble_inputs import BY_NAME, INPUTS

#: Request parameters that Triton and its clients use themselves.
_TRANSPORT_PARAMETERS = (
    "binary_data_output", "classification", "headers", "id", "priority", "timeout",
    "sequence_id", "sequence_start", "sequence_end",
)  # fmt: skip
#: Inputs that preprocessing reads: tensor, name, target, whether a row has several values. Older
#: names come first, so that newer ones overwrite them.
_READ = [
    (each.to_preprocessing, each.name, each.target, -1 in each.dims)
    for each in reversed(INPUTS)
    if each.to_preprocessing
]
_DEFAULTS = {each.name: each.default for each in INPUTS}


class TextRequest:
    """One client request.

    Attributes:
        rows: number of texts.
        request_id: the client's, or empty.
        parameters: request parameters beside the inputs.
        inputs: by `Input.target`, one entry per row; None or missing if not sent.
        wants_key: whether the request asks for the output STREAM_KEY. An ensemble asks only for
            outputs that it maps, and a client that calls preprocessing alone for all by default.
    """

    wants_key = False

    def __init__(
        self,
        rows: int = 1,
        *,
        request_id: str = "",
        parameters: Mapping[str, Any] | None = None,
        **inputs: Sequence[Any] | None,
    ) -> None:
        self.rows = rows
        self.request_id = request_id
        self.parameters = parameters or {}
        self.inputs = inputs

    def at(self, name: str, row: int, default: Any = None) -> Any:
        """The input *name* of *row*; if it was not sent, *default*, or the table's default."""
        values = self.inputs.get(name)
        if values is not None:
            return values[row]
        return _DEFAULTS[name] if default is None else default

    def text(self, name: str, row: int) -> str:
        """The text in the input *name* of *row*; empty if it was not sent.

        Raises:
            RequestError: it is not UTF-8.
        """
        return text_of(self.at(name, row, b""), name)


def from_tensors(
    inputs: Mapping[str, npt.NDArray[Any]], request_id: str, parameters: Mapping[str, Any]
) -> TextRequest:
    """Parse the input tensors of preprocessing.

    Args:
        inputs: tensor name -> array, whose first dimension is the batch.
        request_id: the client's, or empty.
        parameters: of the request, beside its tensors.

    Raises:
        RequestError: an input has several values per row instead of one.
    """
    rows = len(next(iter(inputs.values())))
    found: dict[str, list[Any]] = {}
    for tensor, name, target, is_list in _READ:
        if tensor in inputs:
            array = inputs[tensor]
            values = array.reshape(rows, -1).tolist() if is_list else _scalars(array, name)
            found[target] = values
    return TextRequest(rows, request_id=request_id, parameters=parameters, **found)


def scalars(inputs: Mapping[str, npt.NDArray[Any]], name: str) -> list[Any] | None:
    """The input *name* as one value per row, or None if it was not sent.

    Raises:
        RequestError: it has several values per row.
    """
    array = inputs.get(name)
    return None if array is None else _scalars(array, name)


def _scalars(array: npt.NDArray[Any], name: str) -> list[Any]:
    if array.size != len(array):
        raise RequestError(f"{name} has the shape {list(array.shape)}; send one value per row")
    values: list[Any] = array.ravel().tolist()
    return values


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse unknown request parameters. Triton turns JSON keys that are no input into these, so
    a misspelt input would be ignored without an error.

    Raises:
        RequestError: names the first unknown one.
    """
    for name in parameters:
        if name not in _TRANSPORT_PARAMETERS and not name.startswith("triton_"):
            hint = "" if name in BY_NAME else nearest(name, BY_NAME)
            raise RequestError(
                f"unknown parameter {name!r}{hint}; this server's ensemble has no such input, "
                "leave it out"
            )


def text_of(value: bytes, name: str) -> str:
    """*value* of the input *name*, decoded.

    Raises:
        RequestError: it is not UTF-8.
    """
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{name} is not valid UTF-8: {error.reason} at byte {error.start}; send UTF-8"
        ) from None
