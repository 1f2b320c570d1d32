"""OpenAI's Agents SDK on chat completions."""

import asyncio

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent
from report import QUESTION, Report, run


def program(report: Report) -> None:
    set_tracing_disabled(True)
    asked: list[str] = []

    @function_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "Sunny"

    def agent() -> Agent:
        client = AsyncOpenAI(base_url=report.openai, api_key="none")
        return Agent(
            name="guide",
            model=OpenAIChatCompletionsModel(model="ensemble", openai_client=client),
            model_settings=ModelSettings(temperature=0, max_tokens=100),
            tools=[weather] if report.scripted else [],
        )

    async def whole() -> str:
        asked.clear()
        text = (await Runner.run(agent(), QUESTION)).final_output
        assert asked == [QUESTION] * report.scripted
        return str(text)

    async def streamed() -> str:
        asked.clear()
        deltas = []
        async for event in Runner.run_streamed(agent(), QUESTION).stream_events():
            data = getattr(event, "data", None)
            if isinstance(data, ResponseTextDeltaEvent):
                deltas.append(data.delta)
        assert asked == [QUESTION] * report.scripted
        return "".join(deltas)

    tools = ", tools" if report.scripted else ""
    report.ask(f"Runner.run{tools}", lambda: asyncio.run(whole()))
    report.ask(f"Runner.run_streamed{tools}", lambda: asyncio.run(streamed()))


run(program, "openai-agents")
