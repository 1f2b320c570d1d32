"""Values <-> the tensors of Triton's gRPC messages, a batch of one. Without numpy: it is faster."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

#: Triton's type -> struct's letter.
_LETTERS = {
    "BOOL": "?", "INT32": "i", "UINT32": "I", "INT64": "q", "UINT64": "Q", "FP32": "f",
}  # fmt: skip
_LENGTH = struct.Struct("<I")


class Step(NamedTuple):
    """One response of the ensemble.

    Attributes:
        sequence: which answer to the prompt it belongs to.
        text: new text.
        finish_reason: empty while the answer continues.
        prompt_tokens, completion_tokens: with the finish reason.
        added: start and end in *text* of each added token, and whether skip_special_tokens would
            leave it out; flat.
        prompt_end: end of the rendered prompt, in the first response; None in others.
        log_probs: one per token of this response, if wanted.
        tokens: bytes of these tokens.
        token_ids: ids of the tokens of this response, if wanted.
    """

    sequence: int = 0
    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    added: Sequence[int] = ()
    prompt_end: str | None = None
    log_probs: Sequence[float] = ()
    tokens: Sequence[bytes] = ()
    token_ids: Sequence[int] = ()


def pack(message: Any, values: Mapping[str, Any], types: Mapping[str, str]) -> None:
    """Add *values* as inputs to *message*, a ModelInferRequest.

    Args:
        values: name -> bytes, number, boolean, or a list of these.
        types: name -> Triton's type.
    """
    for name, value in values.items():
        kind = types[name]
        items = value if isinstance(value, list) else [value]
        message.inputs.add(name=name, datatype=kind, shape=[1, len(items)])
        if kind == "BYTES":
            raw = b"".join(_LENGTH.pack(len(item)) + item for item in items)
        else:
            raw = struct.pack(f"<{len(items)}{_LETTERS[kind]}", *items)
        message.raw_input_contents.append(raw)


def unpack(kind: str, raw: bytes) -> list[Any]:
    """The values of a tensor of Triton's type *kind*."""
    if kind != "BYTES":
        return [value for (value,) in struct.iter_unpack(f"<{_LETTERS[kind]}", raw)]
    values, at = [], 0
    while at < len(raw):
        end = at + 4 + _LENGTH.unpack_from(raw, at)[0]
        values.append(raw[at + 4 : end])
        at = end
    return values


def step_of(response: Any) -> Step:
    """The content of *response*, a ModelInferResponse of the ensemble."""
    found: dict[str, Any] = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        match output.name:
            case "text_output":
                found["text"] = raw[4:].decode()
            case "finish_reason":
                found["finish_reason"] = raw[4:].decode()
            case "sequence_index":
                found["sequence"] = int.from_bytes(raw[:4], "little")
            case "num_input_tokens":
                found["prompt_tokens"] = int.from_bytes(raw[:4], "little")
            case "num_output_tokens":
                found["completion_tokens"] = int.from_bytes(raw[:4], "little")
            case "added_tokens":
                found["added"] = [each for each in unpack("INT32", raw) if each >= 0]
            case "prompt_end":
                found["prompt_end"] = raw[4:].decode()
            case "output_log_probs":
                found["log_probs"] = unpack("FP32", raw)
            case "output_tokens":
                found["tokens"] = unpack("BYTES", raw)
            case "token_ids":
                found["token_ids"] = [each for each in unpack("INT32", raw) if each >= 0]
    return Step(**found)
