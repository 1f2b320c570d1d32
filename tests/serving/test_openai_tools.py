"""Tool calls and reasoning through the whole server; the engine answers with the last message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from harness import free_ports, launched
from replayed_answers import END, generate_replayed_answers

pytestmark = pytest.mark.triton
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "write",
            "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
        },
    }
]
ARGUMENTS = {"text": '안녕 👍🏽 {"a": [1]}'}
CALL = json.dumps({"name": "write", "arguments": ARGUMENTS}, ensure_ascii=False)


@pytest.fixture(scope="module")
def client(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = tmp_path_factory.mktemp("openai-tools")
    repository = generate_replayed_answers(folder, bpe_dir)
    (port,) = free_ports(1)
    with launched(repository, folder, "--openai-port", str(port)):
        url = f"http://127.0.0.1:{port}/v1"
        with OpenAI(base_url=url, api_key="any", max_retries=0) as client:
            yield client


def ask(client: OpenAI, answer: str, **more: Any) -> tuple[Any, Any]:
    """The whole choice, and the same joined from a stream by OpenAI's library."""
    body: dict[str, Any] = {
        "model": "ensemble", "messages": [{"role": "user", "content": answer}], "tools": TOOLS,
        "max_completion_tokens": 500, **more,
    }  # fmt: skip
    whole = client.chat.completions.create(**body).choices[0]
    with client.chat.completions.stream(**body) as stream:
        streamed = stream.get_final_completion().choices[0]
    return whole, streamed


def test_a_call_with_reasoning_before_it(client: OpenAI) -> None:
    answer = f"<think>\nwell\n</think>\n\n<tool_call>\n{CALL}"
    for choice in ask(client, f"{answer}\n</tool_call>{END}"):
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert call.function.name == "write"
        assert json.loads(call.function.arguments) == ARGUMENTS
        assert choice.message.reasoning_content.strip() == "well"
        assert not (choice.message.content or "").strip()


@pytest.mark.parametrize("tokens", [3, 12, 30, 45])
def test_a_call_that_is_cut_is_no_call(client: OpenAI, tokens: int) -> None:
    body = f"<tool_call>\n{CALL}\n</tool_call>{END}"
    whole = client.chat.completions.create(
        model="ensemble", messages=[{"role": "user", "content": body}], tools=TOOLS,
        max_completion_tokens=tokens,
    )  # fmt: skip
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == tokens


def test_text_around_no_call_and_special_tokens_do_not_leak(client: OpenAI) -> None:
    for choice in ask(client, f"a < b, not a call: tool_call>{END}"):
        assert choice.message.content == "a < b, not a call: tool_call>"
        assert choice.finish_reason == "stop"
        assert not choice.message.tool_calls


def test_without_tools_the_markers_stay_text(client: OpenAI) -> None:
    body = f"<tool_call>\n{CALL}\n</tool_call>"
    answer = client.chat.completions.create(
        model="ensemble", messages=[{"role": "user", "content": body + END}], tool_choice="none",
        tools=TOOLS, max_completion_tokens=500,
    )  # fmt: skip
    assert answer.choices[0].message.content == body
    assert answer.choices[0].finish_reason == "stop"
