"""Answers as they come: server-sent events, comments in silence, and clients that hang up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from trt_tokenizers.openai.api_error import ApiError

T = TypeVar("T")

#: Seconds without an event after which a comment is sent, so that proxies keep the connection.
SILENCE_S = 15.0
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


#: Turns of the event loop between the end of a request and that of its connection.
_TURNS = 4


_DONE = b"data: [DONE]\n\n"
#: Takes the place of the chunk after the last one.
END: dict[str, Any] = {}
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class ClientGoneError(Exception):
    """The client has closed the connection."""


async def until_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of *work*, which is cancelled if the client hangs up.

    If the client is gone already, *work* does not begin: a busy event loop sees the end of a
    connection a few turns after its request.

    Raises:
        ClientGoneError: the client has hung up.
    """
    task = asyncio.current_task()
    assert task is not None
    working = True

    def cancel(_: object) -> None:
        if working:
            task.cancel()

    gone = asyncio.ensure_future(_gone(receive))
    try:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        gone.add_done_callback(cancel)
        if not gone.done():
            return await work
    except asyncio.CancelledError:
        if not gone.done():
            raise  # the server stops
    finally:
        working = False
        gone.cancel()
        work.close()
    gone.result()
    raise ClientGoneError


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends chunks as events. An error before the first one is an answer with its status."""

    def __init__(
        self,
        chunks: AsyncGenerator[list[dict[str, Any]], None],
        explain: Callable[[Exception], ApiError],
    ) -> None:
        """*chunks*: what each step makes, `END` at last; *explain*: an error -> what is told."""
        super().__init__()
        self._chunks = chunks
        self._explain = explain
        self._started = False
        self._last = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        comments = asyncio.ensure_future(self._comment(send))
        try:
            await until_gone(receive, self._send_all(scope, receive, send))
        finally:
            comments.cancel()

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._chunks) as steps:
                async for chunks in steps:
                    await self._send(send, b"".join(map(_event, chunks)), more=chunks[-1] != END)
        except Exception as error:
            told = self._explain(error)
            if self._started:
                await self._send(send, _event(told.body()) + _DONE, more=False)
            else:
                await error_response(told)(scope, receive, send)

    async def _send(self, send: Send, data: bytes, *, more: bool = True) -> None:
        self._last = time.monotonic()
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": data, "more_body": more})

    async def _comment(self, send: Send) -> None:
        """Send comments in silence."""
        while True:
            await asyncio.sleep(self._last + SILENCE_S - time.monotonic())
            if time.monotonic() - self._last >= SILENCE_S:
                await self._send(send, b": waiting\n\n")


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % _to_json(chunk).encode() if chunk else _DONE


def error_response(error: ApiError) -> JSONResponse:
    """The answer for *error*."""
    headers = {"retry-after": "1"} if error.status in (429, 503) else {}
    if error.status == 408:
        headers["connection"] = "close"  # the rest of the request may still come
    return JSONResponse(error.body(), error.status, headers)
