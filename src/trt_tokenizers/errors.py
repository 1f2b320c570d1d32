"""The errors of this package: one root, and one class for each place where the fix is needed.

    TrtTokenizersError
    ├── RequestError          the client sent a bad request: HTTP 400, names the parameter
    ├── UnavailableError      the client should try again later, or elsewhere: HTTP 503
    │   └── StoppingError     the server takes no new requests
    ├── EngineError           the engine failed a valid request: HTTP 500
    ├── SettingsError         a value in config.pbtxt or on the command line is wrong
    ├── TokenizerError        a tokenizer is unknown or does not load
    ├── TemplateError         a chat template is unknown or does not compile
    ├── RepositoryError       a model repository is invalid, missing, or cannot be replaced
    ├── ServerNotFoundError   this machine has no usable tritonserver
    └── LaunchError           a started server failed; carries the exit code

Every message is one line. It says what is wrong, where, and how to fix it.
"""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """Type and first line of another library's error. CUDA's messages have many lines."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0].rstrip('.')}"


def for_clients(error: Exception) -> str:
    """The text of *error*. One that is not the client's fault begins with other words.

    Triton's gRPC streams have no codes, and its generate endpoints answer all errors with 400.
    """
    if isinstance(error, RequestError):
        return str(error)
    if isinstance(error, UnavailableError):
        return f"unavailable: {error}"
    known = isinstance(error, TrtTokenizersError)
    return f"internal error: {error if known else one_line(error)}"


def as_exception(error: BaseException) -> Exception:
    """*error*, or an error for a panic of a Rust library, which is no `Exception`.

    Raises:
        KeyboardInterrupt, SystemExit: *error* is one of them.
    """
    if isinstance(error, Exception):
        return error
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    return TokenizerError(f"the tokenizer failed on this request: {one_line(error)}")


class TrtTokenizersError(Exception):
    """Root of all errors that this package raises on purpose."""


class RequestError(TrtTokenizersError):
    """The client must change its request. Becomes HTTP 400, gRPC INVALID_ARGUMENT."""


class UnavailableError(TrtTokenizersError):
    """The server has too many requests; the client should try again later.

    Becomes gRPC UNAVAILABLE and HTTP 503, but HTTP 400 at the generate endpoint of Triton 24.10.
    """


class StoppingError(UnavailableError):
    """The server is stopping; the client should use another one."""


class EngineError(TrtTokenizersError):
    """The engine cannot serve a valid request. Becomes HTTP 500, gRPC INTERNAL."""


class SettingsError(TrtTokenizersError):
    """A setting has an unknown name or an unusable value."""


class TokenizerError(TrtTokenizersError):
    """A tokenizer is unknown, lacks a dependency, does not load, or fails on a text (HTTP 500)."""


class TemplateError(TrtTokenizersError):
    """A chat template is unknown or does not compile."""


class RepositoryError(TrtTokenizersError):
    """A model repository is invalid or cannot be written."""


class ServerNotFoundError(TrtTokenizersError):
    """No usable tritonserver was found."""


class LaunchError(TrtTokenizersError):
    """A server was started and failed.

    Attributes:
        exit_code: the exit code for the command, never 0.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code or 1
