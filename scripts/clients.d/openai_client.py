"""OpenAI's library for Python."""

import asyncio
import json
from typing import Any

from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from report import QUESTION, WEATHER, Report, run


def program(report: Report) -> None:
    client = OpenAI(base_url=report.openai, api_key="none", max_retries=0)
    chat: Any = {
        "model": "ensemble", "max_tokens": 12, "temperature": 0,
        "messages": [{"role": "user", "content": QUESTION}],
    }  # fmt: skip
    if report.scripted:
        report.ask("tools", lambda: tools(client, chat))
        report.ask("tools, stream helper", lambda: streamed_tools(client, chat))
        forced = {**chat, "tools": [WEATHER], "tool_choice": "required"}
        report.ask(
            "tool_choice required",
            lambda: str(client.chat.completions.create(**forced)),
            refusal="is not supported by this engine",
        )
        return
    report.ask("chat", lambda: str(client.chat.completions.create(**chat).choices[0].message))
    report.ask("chat, stream", lambda: streamed(client, chat))
    report.ask("chat, async stream", lambda: asyncio.run(streamed_async(report, chat)))
    report.ask("chat, raw response", lambda: raw(client, chat))
    report.ask("chat, n 2, seed, stop, logit_bias", lambda: several(client, chat))
    report.ask("chat, logprobs", lambda: log_probs(client, chat))
    report.ask("completions", lambda: completion(report, client))
    report.ask("completions, stream", lambda: completion(report, client, stream=True))
    report.ask("models", lambda: models(report, client))
    report.ask("errors", lambda: errors(report, client, chat))
    kind = {"type": "json_object"}
    report.ask(
        "response_format json_object",
        lambda: str(
            client.chat.completions.create(**{**chat, "max_tokens": 24}, response_format=kind)
        ),
        refusal="is not supported by this engine",
    )
    report.ask(
        "embeddings",
        lambda: str(client.embeddings.create(model="ensemble", input="a")),
        refusal="/v1/embeddings is not served",
    )


def streamed(client: OpenAI, chat: Any) -> str:
    chunks = list(
        client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 7
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])


async def streamed_async(report: Report, chat: Any) -> str:
    async with AsyncOpenAI(base_url=report.openai, api_key="none") as client:
        stream = await client.chat.completions.create(**chat, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def raw(client: OpenAI, chat: Any) -> str:
    answer = client.chat.completions.with_raw_response.create(**chat)
    assert answer.request_id
    return str(answer.parse().choices[0].message.content)


def several(client: OpenAI, chat: Any) -> str:
    answer = client.chat.completions.create(
        **chat, n=2, seed=1, stop=["\n"], logit_bias={"0": -100}
    )
    assert len(answer.choices) == 2
    return str(answer.choices[1].message.content)


def log_probs(client: OpenAI, chat: Any) -> str:
    found = client.chat.completions.create(**chat, logprobs=True).choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert all(each.logprob <= 0 for each in found.content)
    return "".join(each.token for each in found.content)


def completion(report: Report, client: OpenAI, stream: bool = False) -> str:
    request: Any = {
        "model": "ensemble", "prompt": report.prompt, "max_tokens": 12, "temperature": 0
    }  # fmt: skip
    if stream:
        chunks = client.completions.create(**request, stream=True)
        return "".join(chunk.choices[0].text for chunk in chunks)
    return client.completions.create(**request).choices[0].text


def models(report: Report, client: OpenAI) -> str:
    assert [model.id for model in client.models.list()] == ["ensemble"]
    assert client.models.retrieve("ensemble").object == "model"
    return report.expected


def errors(report: Report, client: OpenAI, chat: Any) -> str:
    found = []
    for wrong in ({"temperature": -1}, {"model": "another"}):
        try:
            client.chat.completions.create(**{**chat, **wrong})
        except (BadRequestError, NotFoundError) as error:
            found.append((type(error), error.param, error.code))
    assert found == [
        (BadRequestError, "temperature", None),
        (NotFoundError, "model", "model_not_found"),
    ]
    return report.expected


def tools(client: OpenAI, chat: Any) -> str:
    first = client.chat.completions.create(**chat, tools=[WEATHER]).choices[0]
    assert first.finish_reason == "length", "12 tokens are too few for a call"
    body = {**chat, "max_tokens": 100, "tools": [WEATHER]}
    first = client.chat.completions.create(**body).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls or ()
    assert json.loads(call.function.arguments) == {"city": QUESTION}
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny"}
    messages = [*chat["messages"], first.message.model_dump(exclude_none=True), result]
    body["messages"] = messages
    return str(client.chat.completions.create(**body).choices[0].message.content)


def streamed_tools(client: OpenAI, chat: Any) -> str:
    body = {**chat, "max_tokens": 100, "tools": [WEATHER]}
    with client.chat.completions.stream(**body) as stream:
        names = [e.name for e in stream if e.type == "tool_calls.function.arguments.done"]
        assert names == ["weather"]
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    return "Paris"


run(program, "openai")
