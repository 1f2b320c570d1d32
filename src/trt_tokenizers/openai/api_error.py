"""Errors in OpenAI's form: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from typing import Any

from trt_tokenizers.errors import TrtTokenizersError

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class ApiError(TrtTokenizersError):
    """An answer other than 200.

    Attributes:
        status: HTTP status.
        param: the field of the request that is wrong; None if no single one is.
        code: a word for programs; None if there is none.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        other = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": str(self),
            "type": _TYPES.get(self.status, other),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def refused(param: str | None, message: str, *, code: str | None = None) -> ApiError:
    """A 400 for the field *param*, or for the whole request."""
    return ApiError(400, message, param=param, code=code)
