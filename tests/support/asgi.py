"""Asks an ASGI application without a network."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trt_tokenizers.openai.app import FrontEnd
from trt_tokenizers.openai.options import FrontEndOptions
from trt_tokenizers.openai.tensors import Step
from trt_tokenizers.openai.triton import Model
from trt_tokenizers.streams.ensemble_inputs import INPUTS

_BYTES = {"STRING": "BYTES"}
ENSEMBLE = Model(
    {each.name: _BYTES.get(each.type, each.type) for each in INPUTS},
    dict.fromkeys(
        ("text_output", "finish_reason", "output_log_probs", "output_tokens", "token_ids"), "BYTES"
    ),
)
WHOLE = [Step(text="Par"), Step(text="is."), Step(0, "", "stop", 5, 2)]


@dataclass
class ScriptedTriton:
    """Stands for `Triton`: answers every request with the same steps.

    Attributes:
        steps: a step, an error to raise, or seconds to wait.
        asked: inputs of the requests, in order.
        cancelled: number of streams that were closed before their end.
        template: of a preprocessing of ours; empty: it is another one.
        prompt: what that one renders.
        ids: of that prompt.
    """

    steps: list[Any] = field(default_factory=lambda: list(WHOLE))
    model: Model = ENSEMBLE
    asked: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    cancelled: int = 0
    is_ready: bool = True
    no_preprocessing: Exception | None = None
    template: str = ""
    prompt: str = ""
    ids: Sequence[int] = ()

    async def describe(self, name: str = "") -> Model:
        if name and self.no_preprocessing is not None:
            raise self.no_preprocessing
        if name:
            return Model({"INSPECT": "BYTES"} if self.template else {}, {})
        return self.model

    async def infer(self, name: str, inputs: dict[str, Any]) -> dict[str, bytes]:
        text = {b"template": self.template, b"prompt": self.prompt}[inputs["INSPECT"]].encode()
        ids = struct.pack(f"<{len(self.ids)}i", *self.ids)
        return {"PROMPT": len(text).to_bytes(4, "little") + text, "INPUT_ID": ids}

    async def ready(self) -> bool:
        return self.is_ready

    async def close(self) -> None: ...

    async def stream(self, inputs: dict[str, Any], outputs: Any, request_id: str) -> Any:
        self.asked.append(inputs)
        self.outputs.append(outputs)
        ended = False
        try:
            for step in self.steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, (int, float)):
                    await asyncio.sleep(step)
                else:
                    yield step
            ended = True
        finally:
            self.cancelled += not ended


@dataclass
class Answer:
    """What an application has sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The JSON of each event; the last one must be [DONE]."""
        assert self.headers["content-type"].startswith("text/event-stream")
        assert self.body.endswith(b"data: [DONE]\n\n")
        blocks = self.body.decode().split("\n\n")
        data = [b.removeprefix("data: ") for b in blocks if b.startswith("data: ")]
        return [json.loads(each) for each in data[:-1]]


def app(triton: ScriptedTriton, **options: Any) -> Any:
    made = FrontEndOptions("", log_requests=False, **options)
    return FrontEnd(made, triton).app()  # type: ignore[arg-type]


def ask(
    application: Any,
    path: str,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    method: str = "",
    hang_up_s: float | None = None,
    part: int | None = None,
) -> Answer:
    """Send one request and read its answer.

    Args:
        body: bytes, or what becomes JSON; without any it is a GET.
        hang_up_s: the client leaves after so long.
        part: the client sends so many bytes of the body only, and waits.
    """
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    answer = Answer()
    sent = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": data[:part], "more_body": part is not None}
        await asyncio.sleep(1000 if hang_up_s is None else hang_up_s)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert not answer.status
            answer.status = message["status"]
            answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        elif message["body"]:
            answer.pieces.append(message["body"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method or ("GET" if body is None else "POST"),
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    asyncio.run(asyncio.wait_for(application(scope, receive, send), 20))
    return answer
