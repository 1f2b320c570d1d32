"""Pydantic AI's OpenAIChatModel."""

import asyncio

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from report import QUESTION, Report, run


class City(BaseModel):
    city: str


def program(report: Report) -> None:
    provider = OpenAIProvider(base_url=report.openai, api_key="none")
    model = OpenAIChatModel("ensemble", provider=provider)
    asked: list[str] = []
    agent = Agent(model, model_settings={"temperature": 0, "max_tokens": 100})
    if report.scripted:

        @agent.tool_plain
        def weather(city: str) -> str:
            """The weather of a city."""
            asked.append(city)
            return "Sunny"

    def run_sync() -> str:
        asked.clear()
        text = asyncio.run(agent.run(QUESTION)).output
        assert asked == [QUESTION] * report.scripted
        return text

    async def streamed() -> str:
        asked.clear()
        async with agent.run_stream(QUESTION) as result:
            text = "".join([part async for part in result.stream_text(delta=True)])
        assert asked == [QUESTION] * report.scripted
        return text

    tools = ", tools" if report.scripted else ""
    report.ask(f"run{tools}", run_sync)
    report.ask(f"run_stream{tools}", lambda: asyncio.run(streamed()))
    if report.scripted:
        forced = Agent(model, output_type=City)
        report.ask(
            "output_type",
            lambda: str(asyncio.run(forced.run(QUESTION))),
            refusal="is not supported by this engine",
        )


run(program, "pydantic-ai-slim")
