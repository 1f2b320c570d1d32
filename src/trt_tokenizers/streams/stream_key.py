"""A stream's key and finish reason: which stream a response belongs to, and how it ended."""

from __future__ import annotations

import enum
import hashlib

from trt_tokenizers.errors import SettingsError

#: Keys are below 2**53: a JSON number holds no more without rounding.
KEY_BITS = 53
_KEY_MASK = (1 << KEY_BITS) - 1
_REASONS = 4  # finish reasons; the bits above them hold the sequence's number
#: Maximum sequences of one key, so that a packed key fits into an int64.
MAX_SEQUENCES = 255
#: Seconds between two questions to Triton whether a client is gone; each takes 60 µs.
ASK_S = 0.3


class FinishReason(enum.IntEnum):
    """Why a stream ended. `pack` sends these numbers with the key."""

    NOT_FINISHED = 0
    STOP = 1
    LENGTH = 2
    CANCELLED = 3

    @property
    def text(self) -> str:
        """What clients read: stop, length, cancelled, or nothing while the stream runs."""
        return self.name.lower() if self else ""


def pack(key: int, finish_reason: FinishReason) -> int:
    """Key and finish reason as one number below 2**63: a Python engine's output ``stream_key``.

    One tensor instead of two: each tensor costs time for every token. A negative number marks an
    error, see `engine_failure`.
    """
    return finish_reason << KEY_BITS | key


def unpack(packed: int) -> tuple[int, FinishReason, int | None]:
    """The inverse of `pack`.

    Returns:
        key, finish reason, and the number of the sequence if the key has several, else None.
    """
    sequence, finish_reason = divmod(packed >> KEY_BITS, _REASONS)
    return packed & _KEY_MASK, FinishReason(finish_reason), sequence - 1 if sequence else None


def sequence_key(key: int, sequence: int | None) -> int:
    """The key by which an engine knows a sequence of *key*; `pack` accepts it.

    Args:
        sequence: its number; None if the key has one sequence.
    """
    return key if sequence is None else (sequence + 1) * _REASONS << KEY_BITS | key


class StreamKeyTransport(str, enum.Enum):
    """How a stream's key gets from preprocessing to postprocessing.

    Members equal their names in the setting ``stream_key``.
    """

    TENSOR = "tensor"  # a Python engine returns it as its output stream_key
    SEQUENCE_ID = "sequence_id"  # Triton passes it on, as a response parameter; 25.02 and newer
    REQUEST_ID = "request_id"  # a hash of the client's request id is the key

    @classmethod
    def choose(cls, name: str, *, response_parameters: bool) -> StreamKeyTransport:
        """The transport for a value of the setting ``stream_key``.

        Args:
            name: a transport, or ``auto``: the best that this server offers with any engine.
            response_parameters: whether the server's Python backend has response parameters
                (Triton 25.02 and newer).

        Raises:
            SettingsError: unknown name, or this server cannot do it.
        """
        if name == "auto":
            return cls.SEQUENCE_ID if response_parameters else cls.REQUEST_ID
        try:
            transport = cls(name)
        except ValueError:
            known = ", ".join(STREAM_KEY_VALUES)
            raise SettingsError(f"stream_key is {name!r}; it must be one of {known}") from None
        if transport is cls.SEQUENCE_ID and not response_parameters:
            raise SettingsError(
                "stream_key is 'sequence_id', which needs Triton 25.02 or newer; set it to auto"
            )
        return transport


#: Values of the setting ``stream_key``.
STREAM_KEY_VALUES = ("auto", *(transport.value for transport in StreamKeyTransport))


def key_of_request_id(request_id: str) -> int:
    """The key of a client's request id."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & _KEY_MASK
