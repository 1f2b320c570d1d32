"""A small client for Triton's generate endpoints."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.parse
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from trt_tokenizers.errors import EngineError, RequestError, SettingsError, TrtTokenizersError

Payload = Mapping[str, Any]


def generate(
    url: str, payload: Payload, *, model: str = "ensemble", timeout: float | None = None
) -> dict[str, Any]:
    """Send one request and return its whole answer: the model's outputs by name.

    Args:
        url: the server, for example ``http://127.0.0.1:8000``.
        payload: the model's inputs by name. Triton makes any other key a request parameter.
        timeout: the most seconds to wait for the next byte; None waits without a limit.

    Raises:
        RequestError: the server refused the request (HTTP 4xx).
        EngineError: the server failed or cannot be reached.
        SettingsError: *url* is not an http or https URL.
    """
    with _post(url, f"/v2/models/{model}/generate", payload, timeout) as response:
        body = response.read()
    return _parse(body, url)


def stream(
    url: str, payload: Payload, *, model: str = "ensemble", timeout: float | None = None
) -> Generator[dict[str, Any], None, None]:
    """Send one request and yield its answers as they arrive.

    Closing the iterator cancels the request. Arguments and errors are those of `generate`.
    """
    with _post(url, f"/v2/models/{model}/generate_stream", payload, timeout) as response:
        # Split at \n only, because the JSON may hold other line separators. Decode whole lines,
        # because HTTP chunks may split a character.
        while line := response.readline():
            if line.startswith(b"data:"):
                yield _parse(line.removeprefix(b"data:"), url)


@contextlib.contextmanager
def _post(
    url: str, path: str, payload: Payload, timeout: float | None
) -> Iterator[http.client.HTTPResponse]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{url!r} is not a server URL; use for example http://127.0.0.1:8000")
    https = parts.scheme == "https"
    connect = http.client.HTTPSConnection if https else http.client.HTTPConnection
    body = json.dumps(payload).encode()
    headers = {"Content-Type": "application/json"}
    with contextlib.closing(connect(parts.hostname, parts.port, timeout=timeout)) as connection:
        try:
            connection.request("POST", parts.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            # Leaving early closes the socket, and Triton then cancels the request.
            with response:
                if response.status >= 400:
                    raise _error_of(response)
                yield response
        except ConnectionRefusedError:
            raise EngineError(f"no server answers at {url}; start one with launch_server") from None
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise EngineError(f"the connection to {url} failed: {reason}") from None


def _error_of(response: http.client.HTTPResponse) -> TrtTokenizersError:
    body = response.read()
    try:
        # The streaming endpoint sends errors with the prefix of its answers.
        message = str(json.loads(body.strip().removeprefix(b"data:"))["error"])
    except (ValueError, KeyError, TypeError):
        message = body.decode(errors="replace").strip() or response.reason
    text = f"HTTP {response.status}: {_one_line(message)}"
    return RequestError(text) if response.status < 500 else EngineError(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _parse(body: bytes, url: str) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise EngineError(
            f"{url} answered with something other than a JSON object: {body[:80]!r}; check the URL"
        )
    if set(answer) == {"error"}:  # status 200: the failure came after the headers
        raise EngineError(_one_line(str(answer["error"])))
    return answer
