"""LiteLLM's provider for OpenAI-compatible servers."""

import asyncio
import json
from typing import Any

import litellm
from report import QUESTION, WEATHER, Report, run


def program(report: Report) -> None:
    request: Any = {
        "model": "hosted_vllm/ensemble", "api_base": report.openai, "api_key": "none",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 100, "temperature": 0,
    }  # fmt: skip
    for provider in ("openai", "hosted_vllm"):
        body = {**request, "model": f"{provider}/ensemble"}
        if report.scripted:
            report.ask(f"{provider}: tools", lambda body=body: tools(body))
            report.ask(f"{provider}: tools, stream", lambda body=body: streamed_tools(body))
            continue
        report.ask(f"{provider}: completion", lambda body=body: text(litellm.completion(**body)))
        report.ask(f"{provider}: stream", lambda body=body: streamed(body))
        report.ask(
            f"{provider}: acompletion",
            lambda body=body: text(asyncio.run(litellm.acompletion(**body))),
        )
    if not report.scripted:
        prompt = {
            "model": "text-completion-openai/ensemble", "api_base": report.openai,
            "api_key": "none", "prompt": report.prompt, "max_tokens": 12, "temperature": 0,
        }  # fmt: skip
        report.ask("text_completion", lambda: litellm.text_completion(**prompt).choices[0].text)


def text(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def streamed(request: Any) -> str:
    chunks = list(
        litellm.completion(**request, stream=True, stream_options={"include_usage": True})
    )
    assert any(getattr(chunk, "usage", None) for chunk in chunks)
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def tools(request: Any) -> str:
    choice = litellm.completion(**request, tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert json.loads(call.function.arguments) == {"city": QUESTION}
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny"}
    request = {**request, "messages": [*request["messages"], choice.message, result]}
    return text(litellm.completion(**request, tools=[WEATHER]))


def streamed_tools(request: Any) -> str:
    chunks = list(litellm.completion(**request, tools=[WEATHER], stream=True))
    choice = litellm.stream_chunk_builder(chunks).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": QUESTION}
    return "Paris"


run(program, "litellm")
