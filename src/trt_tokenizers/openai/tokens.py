"""/tokenize, /detokenize and /render: asked of preprocessing, which has tokenizer and template."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trt_tokenizers.openai.api_error import ApiError, refused
from trt_tokenizers.openai.fields import CHAT, Field, check_fields
from trt_tokenizers.openai.requests import chat_inputs
from trt_tokenizers.openai.tensors import unpack
from trt_tokenizers.openai.triton import Triton

_PROMPT_FIELDS = {
    name: CHAT[name]
    for name in (
        "model", "messages", "tools", "chat_template", "chat_template_kwargs",
        "add_generation_prompt", "continue_final_message", "reasoning_effort",
    )
}  # fmt: skip
_PROMPT_FIELDS["prompt"] = Field("prompt", "string")
_PROMPT_FIELDS["add_special_tokens"] = Field(
    "add_special_tokens", "boolean", only=(True,), reason="preprocessing adds BOS as it is set to"
)
_IDS_FIELDS = {
    "model": CHAT["model"],
    "tokens": Field("tokens", "array"),
    "return_bytes": Field("return_bytes", "boolean"),
}
_MAX_ID = 2**31
#: Input of the ensemble -> input of preprocessing.
_TENSORS = {
    "text_input": "QUERY", "messages": "MESSAGES", "tools": "TOOLS",
    "chat_template_kwargs": "CHAT_TEMPLATE_KWARGS",
}  # fmt: skip


class Tokens:
    """Asks the model preprocessing."""

    def __init__(self, triton: Triton, preprocessing: str) -> None:
        self._triton = triton
        self._model = preprocessing
        self._template: str | None = None

    #: Path -> fields of its requests.
    fields = MappingProxyType(
        {"/tokenize": _PROMPT_FIELDS, "/render": _PROMPT_FIELDS, "/detokenize": _IDS_FIELDS}
    )

    @property
    def endpoints(self) -> dict[str, Callable[[Request, Any], Awaitable[Response]]]:
        """Path -> what answers it."""
        return {
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
            "/render": self._render,
            "/v1/chat/completions/render": self._render,
        }

    async def template(self) -> str:
        """The model's chat template; empty if it has none, or no preprocessing of ours tells it.

        Raises:
            ApiError: 503, Triton does not answer.
        """
        if self._template is None:
            try:
                self._template, _ = await self._inspect("template", {})
            except ApiError as error:
                if error.status == 503:
                    raise
                self._template = ""
        return self._template

    async def prompt(self, inputs: Mapping[str, Any]) -> str:
        """The prompt that these *inputs* of the ensemble make; empty if no preprocessing of ours
        tells it.

        Raises:
            ApiError: Triton does not answer, or refuses the inputs.
        """
        return (await self._inspect_prompt(inputs))[0] if await self.template() else ""

    async def ids(self, inputs: Mapping[str, Any]) -> list[int]:
        """The token ids of that prompt.

        Raises:
            ApiError: as `prompt`; 501, no preprocessing of ours tells it.
        """
        return (await self._inspect_prompt(inputs))[1]

    async def _tokenize(self, http: Request, body: Any) -> Response:
        _, ids = await self._prompt(body)
        model = await self._triton.describe(self._model)
        most = int(model.settings.get("max_seq_len") or 0)
        return JSONResponse({"count": len(ids), "max_model_len": most, "tokens": ids})

    async def _render(self, http: Request, body: Any) -> Response:
        text, ids = await self._prompt(body)
        return JSONResponse({"prompt": text, "token_ids": ids})

    async def _detokenize(self, http: Request, body: Any) -> Response:
        given = check_fields(body, _IDS_FIELDS)
        ids = given.get("tokens")
        if not ids or not all(type(each) is int and 0 <= each < _MAX_ID for each in ids):
            raise refused("tokens", "tokens must be a list of at least one token id")
        text, _ = await self._inspect("text", {"TOKEN_IDS": ids})
        answer = {"prompt": text}
        if given.get("return_bytes"):
            tokens, _ = await self._inspect("tokens", {"TOKEN_IDS": ids})
            answer |= json.loads(tokens)
        return JSONResponse(answer)

    async def _prompt(self, body: Any) -> tuple[str, list[int]]:
        """The prompt that a request's messages or text makes, and its ids."""
        given = check_fields(body, _PROMPT_FIELDS)
        if "prompt" in given and "messages" in given:
            raise refused("prompt", "prompt and messages are both given; send one of them")
        if "prompt" in given:
            inputs = {"text_input": given["prompt"].encode(errors="replace")}
        else:
            inputs = chat_inputs(given)
        return await self._inspect_prompt(inputs)

    async def _inspect_prompt(self, inputs: Mapping[str, Any]) -> tuple[str, list[int]]:
        tensors = {_TENSORS[name]: value for name, value in inputs.items() if name in _TENSORS}
        return await self._inspect("prompt", tensors)

    async def _inspect(self, what: str, inputs: dict[str, Any]) -> tuple[str, list[int]]:
        model = await self._triton.describe(self._model)
        if "INSPECT" not in model.inputs:
            raise ApiError(
                501, f"the model {self._model!r} has no input INSPECT; generate the repository anew"
            )
        outputs = await self._triton.infer(self._model, {"INSPECT": what.encode(), **inputs})
        ids = unpack("INT32", outputs["INPUT_ID"]) if "INPUT_ID" in outputs else []
        return outputs["PROMPT"][4:].decode(), ids
