"""What operators need around the endpoints: keys, request ids, a log, metrics, a limit."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import sys
import time
import urllib.request
from collections import Counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trt_tokenizers.openai.api_error import ApiError
from trt_tokenizers.openai.event_stream import ClientGoneError, error_response
from trt_tokenizers.openai.page_files import PAGE

#: Without a key: for probes, scrapers and the page.
_OPEN = ("/health/live", "/health/ready", "/metrics", "/")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_PREFIX = "trt_tokenizers_openai"
#: Seconds for the body of a request to arrive, so that nobody keeps a connection with half of one.
BODY_S = 60.0


class Operators:
    """Wraps the application; counts and logs each request."""

    def __init__(self, keys: tuple[str, ...], metrics_url: str, *, log: bool) -> None:
        """*keys*: one of them must be sent, unless there are none; *metrics_url*: Triton's."""
        self._keys = [_digest(key) for key in keys]
        self._metrics_url = metrics_url
        self._log = log
        self._running = 0
        self._answered: Counter[tuple[str, int]] = Counter()
        self._tokens: Counter[str] = Counter()

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """*app* behind the checks."""

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            await self._serve(app, scope, receive, send)

        return wrapped

    async def _serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        status, began = 499, time.monotonic()  # 499: the client left before an answer

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(raw=message["headers"])["x-request-id"] = request_id
            await send(message)

        self._running += 1
        gone = False
        try:
            if self._allowed(scope["path"], headers):
                await app(scope, receive, send_with_id)
            else:
                error = ApiError(401, "the API key is missing or wrong", code="invalid_api_key")
                await error_response(error)(scope, receive, send_with_id)
        except (ClientGoneError, ClientDisconnect):
            gone = True
        finally:
            self._running -= 1
            self._count(scope, status, gone=gone)
            if self._log:
                self._write(scope, request_id, status, time.monotonic() - began, gone=gone)

    def _allowed(self, path: str, headers: Headers) -> bool:
        if not self._keys or path in _OPEN or path.startswith(PAGE):
            return True
        sent = _digest(headers.get("authorization", "").removeprefix("Bearer ").strip())
        return any(hmac.compare_digest(sent, key) for key in self._keys)

    def _count(self, scope: Scope, status: int, *, gone: bool) -> None:
        path = scope["route"].path if "route" in scope else "other"
        self._answered[path, 499 if gone else status] += 1
        if "answer" in scope:
            self._tokens.update(scope["answer"].usage)

    def _write(
        self, scope: Scope, request_id: str, status: int, seconds: float, *, gone: bool
    ) -> None:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": request_id,
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 4),
        }
        if gone:
            line["client_left"] = True
        if "answer" in scope:
            line |= {"answer": scope["answer"].id, **scope["answer"].usage}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    async def metrics(self, _: Request) -> Response:
        """Triton's metrics and the front end's."""
        lines = [f"# TYPE {_PREFIX}_requests_running gauge",
                 f"{_PREFIX}_requests_running {self._running}",
                 f"# TYPE {_PREFIX}_requests_total counter"]  # fmt: skip
        lines += [
            f'{_PREFIX}_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self._answered.items())
        ]
        for name in ("prompt_tokens", "completion_tokens"):
            lines += [f"# TYPE {_PREFIX}_{name}_total counter",
                      f"{_PREFIX}_{name}_total {self._tokens[name]}"]  # fmt: skip
        text = "\n".join(lines) + "\n"
        if self._metrics_url:
            text = await asyncio.to_thread(_read, self._metrics_url) + text
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _read(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return str(response.read().decode())
    except OSError as error:
        return f"# Triton's metrics at {url} cannot be read: {' '.join(str(error).split())}\n"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


async def read_body(http: Request, limit: int) -> bytes:
    """The body of a request.

    Raises:
        ApiError: 413, it is longer than *limit* bytes; 408, it takes longer than `BODY_S`.
        ClientDisconnect: the client left before its end.
    """
    too_long = ApiError(413, f"the request is longer than {limit} bytes; send less")
    length = http.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit:
        raise too_long

    body, late, task = bytearray(), False, asyncio.current_task()
    assert task is not None

    def expire() -> None:
        nonlocal late
        late = True
        task.cancel()

    # asyncio.wait_for would keep the body of a client that has left until a garbage collection.
    timer = asyncio.get_running_loop().call_later(BODY_S, expire)
    try:
        async for piece in http.stream():
            body += piece
            if len(body) > limit:
                raise too_long
    except asyncio.CancelledError:
        if not late:
            raise
        raise ApiError(
            408, f"the request did not arrive within {BODY_S:g} s; send it without a pause"
        ) from None
    finally:
        timer.cancel()
    return bytes(body)
