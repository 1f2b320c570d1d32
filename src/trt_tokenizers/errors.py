"""The errors of this package, one root and one branch per person who can mend them.

    TrtTokenizersError
    ├── RequestError          the client's fault: HTTP 400, the message names the parameter
    ├── StoppingError         the server takes no new requests: HTTP 503
    ├── EngineError           the engine failed a request that was right: HTTP 500
    ├── SettingsError         a value in config.pbtxt or on the command line is wrong
    ├── TokenizerError        a tokenizer cannot be found or loaded
    ├── TemplateError         a chat template cannot be found or compiled
    ├── RepositoryError       a model repository is wrong, missing or in the way
    ├── ServerNotFoundError   no tritonserver can be started here
    └── LaunchError           a server started and failed; carries the exit code

Every message is one line and says what is wrong, where, and what mends it.
"""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """Type and first line of another library's error; CUDA's messages go on for many."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0].rstrip('.')}"


class TrtTokenizersError(Exception):
    """Root of all errors raised on purpose by this package."""


class RequestError(TrtTokenizersError):
    """A request that the client has to change. Becomes HTTP 400, gRPC INVALID_ARGUMENT."""


class StoppingError(TrtTokenizersError):
    """The server is about to stop: ask another one. Becomes gRPC UNAVAILABLE, HTTP 503 (400 of
    the generate endpoint of Triton 24.10)."""


class EngineError(TrtTokenizersError):
    """The engine cannot serve a request that was right. Becomes HTTP 500, gRPC INTERNAL."""


class SettingsError(TrtTokenizersError):
    """A setting has an unknown name or a value that cannot be used."""


class TokenizerError(TrtTokenizersError):
    """A tokenizer type is unknown, a dependency is missing, or its files do not load."""


class TemplateError(TrtTokenizersError):
    """A chat template is unknown or does not compile."""


class RepositoryError(TrtTokenizersError):
    """A model repository cannot be written or is not valid."""


class ServerNotFoundError(TrtTokenizersError):
    """No usable tritonserver was found."""


class LaunchError(TrtTokenizersError):
    """A server was started and did not do what was asked.

    Attributes:
        exit_code: what the command should exit with, never 0.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code or 1
