"""A stream's key and its end: what every response of it carries, and how."""

from __future__ import annotations

import enum
import hashlib

from trt_tokenizers.errors import RequestError, SettingsError
from trt_tokenizers.streams.slots import KEY_BITS, PLACED

_KEY_MASK = (1 << KEY_BITS) - 1
_REASONS = 4  # finish reasons; the sequence's number stands above them
#: Sequences of one key, at the most: all of it fits into an int64.
MAX_SEQUENCES = 255
#: How often Triton is asked whether a client is gone, which takes 60 µs. Seconds.
ASK_S = 0.1


class FinishReason(enum.IntEnum):
    """Why a stream ended. The numbers travel beside the key, see `pack`."""

    NOT_FINISHED = 0
    STOP = 1
    LENGTH = 2
    CANCELLED = 3

    @property
    def text(self) -> str:
        """What clients read: stop, length, cancelled, or nothing while the stream runs."""
        return self.name.lower() if self else ""


def pack(key: int, finish_reason: FinishReason) -> int:
    """Key and finish reason in one number below 2**63: a Python engine's output ``stream_key``.

    One tensor less on the way of every token.
    """
    return finish_reason << KEY_BITS | key


def unpack(packed: int) -> tuple[int, FinishReason, int | None]:
    """What `pack` made one of, and which sequence of the key it is, if there are several.

    Raises:
        RequestError: nothing that `pack` made.
    """
    if packed < 0:
        raise RequestError(f"STREAM_KEY is {packed}, which no engine of this package sends")
    sequence, finish_reason = divmod(packed >> KEY_BITS, _REASONS)
    return packed & _KEY_MASK, FinishReason(finish_reason), sequence - 1 if sequence else None


def sequence_key(key: int, sequence: int | None) -> int:
    """What an engine knows a sequence of *key* by, and `pack` takes; None is the only one."""
    return key if sequence is None else (sequence + 1) * _REASONS << KEY_BITS | key


class StreamKeyTransport(enum.Enum):
    """How a stream's key gets from preprocessing to postprocessing."""

    TENSOR = "tensor"  # a Python engine hands it on as its output stream_key
    SEQUENCE_ID = "sequence_id"  # Triton does, from 25.02 on, as a response parameter
    REQUEST_ID = "request_id"  # the client's own id of the request is the key

    @classmethod
    def choose(cls, wanted: str, *, response_parameters: bool) -> StreamKeyTransport:
        """Once, when the model loads.

        Args:
            wanted: a carrier's name, or ``auto`` for what this server can do with any engine.
            response_parameters: whether the server's Python backend has them (25.02 and newer).

        Raises:
            SettingsError: unknown, or this server cannot.
        """
        if wanted == "auto":
            return cls.SEQUENCE_ID if response_parameters else cls.REQUEST_ID
        try:
            carrier = cls(wanted)
        except ValueError:
            known = ", ".join(carrier.value for carrier in cls)
            raise SettingsError(
                f"stream_key is {wanted!r}; it must be one of auto, {known}"
            ) from None
        if carrier is cls.SEQUENCE_ID and not response_parameters:
            raise SettingsError(
                "stream_key is 'sequence_id', which needs Triton 25.02 or newer; set it to auto"
            )
        return carrier


def key_of_request_id(request_id: str) -> int | None:
    """The key of a client's request id; None for an empty one."""
    if not request_id:
        return None
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % PLACED
