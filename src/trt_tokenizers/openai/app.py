"""The endpoints."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from trt_tokenizers.openai.answers import Answers, Chat, Chunk, Completions
from trt_tokenizers.openai.api_error import ApiError, refused
from trt_tokenizers.openai.event_stream import (
    END,
    ClientGoneError,
    EventStream,
    error_response,
    until_gone,
)
from trt_tokenizers.openai.guides import GUIDED, TEXT, TYPE, Guide, chat_guide
from trt_tokenizers.openai.operators import Operators, read_body
from trt_tokenizers.openai.options import FrontEndOptions
from trt_tokenizers.openai.page_files import page_routes
from trt_tokenizers.openai.parsing import (
    AnswerParser,
    choose,
    make_parser,
    reasoning_format,
    tool_format,
)
from trt_tokenizers.openai.requests import (
    AnswerRequest,
    load_json,
    parse_chat,
    parse_completion,
    with_param,
)
from trt_tokenizers.openai.schema import openapi
from trt_tokenizers.openai.tensors import Step
from trt_tokenizers.openai.tokens import Tokens
from trt_tokenizers.openai.triton import Model, Triton

logger = logging.getLogger(__name__)
#: Asked for if parsers look for markers: the answer then keeps its special tokens.
_MARKED = {"return_added_tokens": True, "skip_special_tokens": False}

Endpoint = Callable[[Request], Awaitable[Response]]


class FrontEnd:
    """Answers OpenAI's requests through one Triton."""

    def __init__(self, options: FrontEndOptions, triton: Triton) -> None:
        self._options = options
        self._triton = triton
        self._tokens = Tokens(triton, options.preprocessing)
        self._names = options.names or (options.ensemble,)
        self._started = int(time.time())

    def app(self) -> Starlette:
        """The ASGI application."""
        options = self._options
        operators = Operators(options.api_keys, options.metrics_url, log=options.log_requests)
        routes = [
            *(page_routes() if options.page else ()),
            Route("/v1/chat/completions", self._answering(self._chat), methods=["POST"]),
            Route("/v1/completions", self._answering(self._completion), methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
            *(
                Route(path, self._answering(handle), methods=["POST"])
                for path, handle in self._tokens.endpoints.items()
            ),
            Route("/openapi.json", self._openapi),
            Route("/health/live", _live),
            Route("/health/ready", self._ready),
            Route("/metrics", operators.metrics),
        ]
        middleware = [Middleware(operators.wrap)]
        if options.origins:
            # Outside: a browser asks without a key first.
            middleware.insert(
                0,
                Middleware(
                    CORSMiddleware,
                    allow_origins=options.origins,
                    allow_methods=["*"],
                    allow_headers=["*"],
                    expose_headers=["x-request-id"],
                ),
            )

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await self._triton.close()

        return Starlette(
            routes=routes,
            middleware=middleware,
            lifespan=lifespan,
            exception_handlers={HTTPException: _http_error, ApiError: _api_error},
        )

    def _answering(self, handle: Callable[[Request, Any], Awaitable[Response]]) -> Endpoint:
        """An endpoint that gives *handle* the JSON of the request."""

        async def endpoint(http: Request) -> Response:
            return await handle(http, load_json(await read_body(http, self._options.max_body)))

        return endpoint

    async def _chat(self, http: Request, body: Any) -> Response:
        request = parse_chat(body)
        options = self._options
        tool, reasoning = choose(
            options.tool_parser if request.tools else "none",
            options.reasoning_parser,
            await self._tokens.template(),
        )
        marked = (tool, reasoning) != ("none", "none")

        def parser(prompt_end: str) -> AnswerParser:
            return make_parser(tool, reasoning, tools=request.tools, prompt_end=prompt_end)

        ids = await self._tokens.ids(request.prompts[0]) if request.return_token_ids else None
        answers = Chat(request, parser, options.reasoning_field, ids)
        guide = await self._guide(request, tool, reasoning)
        return await self._respond(http, request, answers, guide, marked=marked)

    async def _guide(self, request: AnswerRequest, tool: str, reasoning: str) -> Guide | None:
        """The guide of a chat's answer, with reasoning and calls."""
        if not (request.guide or request.forced):
            return None
        if request.guide and request.guide.kind == "structural_tag":  # the client's whole answer
            return request.guide
        (inputs,) = request.prompts
        return chat_guide(
            request.guide,
            request.forced or request.tools or (),
            (tool_format(tool), reasoning_format(reasoning)),
            forced=bool(request.forced),
            chat_template=await self._tokens.template(),
            prompt_end=await self._tokens.prompt(inputs) if reasoning != "none" else "",
        )

    async def _completion(self, http: Request, body: Any) -> Response:
        request = parse_completion(body)
        return await self._respond(http, request, Completions(request), request.guide, marked=False)

    async def _respond(
        self,
        http: Request,
        request: AnswerRequest,
        answers: Answers,
        guide: Guide | None,
        *,
        marked: bool,
    ) -> Response:
        more: dict[str, Any] = dict(_MARKED) if marked else {}
        fields = dict(request.fields)
        if guide:
            more |= guide.inputs
            fields |= guide.fields
        if request.logprobs:
            more["return_added_tokens"] = True  # output_tokens comes with it
        if request.model in self._options.adapters:
            more["lora_name"] = request.model.encode()
        elif request.model not in self._names:
            raise ApiError(
                404,
                f"the model {request.model[:200]!r} does not exist; /v1/models lists the models",
                param="model",
                code="model_not_found",
            )
        model = await self._triton.describe()
        prompts = [_fitting({**prompt, **more}, fields, model) for prompt in request.prompts]
        for output, param in request.outputs.items():
            if output not in model.outputs:
                raise refused(param, f"{param} is not served: the ensemble has no output "
                              f"{output!r}; leave it out")  # fmt: skip
        outputs = [*request.outputs, *(("added_tokens", "prompt_end") if marked else ())]
        http.scope["answer"] = answers
        chunks = self._chunks(request, answers, self._steps(prompts, outputs, answers.id))

        def explain(error: Exception) -> ApiError:
            return _explained(error, fields)

        if request.stream:
            return EventStream(chunks, explain)
        try:
            whole = await until_gone(http.receive, _collected(chunks))
        except ClientGoneError:
            raise
        except Exception as error:
            raise explain(error) from None
        return JSONResponse(answers.fold(whole))

    async def _chunks(
        self,
        request: AnswerRequest,
        answers: Answers,
        steps: AsyncGenerator[tuple[int, Step], None],
    ) -> AsyncGenerator[list[Chunk], None]:
        """The chunks that each step makes; after the last one `END`."""
        async with aclosing(steps):
            async for prompt, step in steps:
                if step.finish_reason == "cancelled":
                    raise ApiError(503, "the server cancelled the answer; ask again")
                chunks = answers.feed(prompt, step)
                if not answers.left:
                    if request.include_usage or self._options.force_usage:
                        chunks.append(answers.chunk([], usage=answers.usage))
                    yield [*chunks, END]
                    return
                if chunks:
                    yield chunks
        raise ApiError(500, "the server ended the answer before its end; ask again")

    async def _steps(
        self, prompts: list[dict[str, Any]], outputs: list[str], request_id: str
    ) -> AsyncGenerator[tuple[int, Step], None]:
        """The steps of all prompts, with their prompts' numbers."""
        if len(prompts) == 1:
            async with aclosing(self._triton.stream(prompts[0], outputs, request_id)) as steps:
                async for step in steps:
                    yield 0, step
            return
        arrived: asyncio.Queue[tuple[int, Step | Exception | None]] = asyncio.Queue(64)

        async def read(number: int) -> None:
            end: Exception | None = None
            try:
                stream = self._triton.stream(prompts[number], outputs, f"{request_id}-{number}")
                async with aclosing(stream) as steps:
                    async for step in steps:
                        await arrived.put((number, step))
            except Exception as error:
                end = error
            await arrived.put((number, end))

        readers = [asyncio.ensure_future(read(number)) for number in range(len(prompts))]
        try:
            left = len(readers)
            while left:
                number, found = await arrived.get()
                if isinstance(found, Exception):
                    raise found
                if found is None:
                    left -= 1
                else:
                    yield number, found
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _models(self, _: Request) -> Response:
        names = (*self._names, *self._options.adapters)
        return JSONResponse({"object": "list", "data": [*map(self._card, names)]})

    async def _model(self, http: Request) -> Response:
        name = http.path_params["name"]
        if name not in (*self._names, *self._options.adapters):
            raise ApiError(404, "this model does not exist", param="model", code="model_not_found")
        return JSONResponse(self._card(name))

    def _card(self, name: str) -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": self._started, "owned_by": "triton"}
        return card | ({"parent": self._names[0]} if name in self._options.adapters else {})

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(openapi(self._tokens.fields, (*self._names, *self._options.adapters)))

    async def _ready(self, _: Request) -> Response:
        ready = await self._triton.ready()
        return PlainTextResponse("ready\n" if ready else "not ready\n", 200 if ready else 503)


async def _live(_: Request) -> Response:
    return PlainTextResponse("live\n")


async def _collected(chunks: AsyncGenerator[list[Chunk], None]) -> list[Chunk]:
    async with aclosing(chunks):
        return [chunk async for each in chunks for chunk in each if chunk]


def _fitting(inputs: dict[str, Any], fields: Mapping[str, str], model: Model) -> dict[str, Any]:
    """*inputs* that the ensemble *model* has; a 400 for one that the client needs."""
    fitting = {}
    for name, value in inputs.items():
        if name in model.inputs:
            fitting[name] = value
        elif name in fields or name in ("messages", "tools", "lora_name"):
            param = fields.get(name, name)
            fix = f"{GUIDED}, or leave it out" if name in (TYPE, TEXT) else "leave it out"
            raise refused(
                param, f"{param} is not served: the ensemble has no input {name!r}; {fix}"
            )
    return fitting


def _explained(error: Exception, fields: Mapping[str, str]) -> ApiError:
    """What the client is told about *error*."""
    if isinstance(error, ApiError):
        return with_param(error, fields)
    logger.error("unexpected error", exc_info=error)
    return ApiError(500, f"unexpected {type(error).__name__}; see the server's log")


async def _http_error(http: Request, error: Exception) -> Response:
    """Starlette's 404 and 405."""
    assert isinstance(error, HTTPException)
    message = f"{http.method} {http.url.path[:200]} is not served; /openapi.json lists what is"
    return error_response(ApiError(error.status_code, message))


async def _api_error(_: Request, error: Exception) -> Response:
    return error_response(_explained(error, {}))
