"""Structured output over OpenAI's protocol, on SmolLM2 with a template of tools and reasoning."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import jsonschema
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from applicable import needs_engine
from guided import SCHEMAS
from harness import free_ports, generate, launched

pytestmark = [
    pytest.mark.triton,
    pytest.mark.model,
    pytest.mark.skipif("TRT_TOKENIZERS_VERIFY" in os.environ, reason="the double has no guides"),
]
TEMPLATE = """\
{% if tools %}<|im_start|>system
Tools: {{ tools | tojson }}
Call one: <tool_call>
{"name": ..., "arguments": {...}}
</tool_call><|im_end|>
{% endif %}\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}\
<|im_start|>assistant
<think>
{% if not thinking %}
</think>

{% endif %}"""
NAMES = ("weather", "issue", "order", "rating")


def tool(name: str, schema: Any) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [tool("get_weather", SCHEMAS["weather"]), tool("rate", SCHEMAS["rating"])]
PARAMETERS = {each["function"]["name"]: each["function"]["parameters"] for each in TOOLS}


@pytest.fixture(scope="module")
def client(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    needs_engine()
    folder = tmp_path_factory.mktemp("openai-guides")
    model = folder / "model"
    model.mkdir()
    for path in smollm2.iterdir():
        (model / path.name).symlink_to(path)
    (model / "chat_template.jinja").unlink()
    (model / "chat_template.jinja").write_text(TEMPLATE)
    repository = generate(folder / "repo", "--engine", "transformers", "--model", str(model))
    (port,) = free_ports(1)
    with launched(repository, folder, "--openai-port", str(port)):
        url = f"http://127.0.0.1:{port}/v1"
        with OpenAI(base_url=url, api_key="any", max_retries=0) as client:
            yield client


def question(text: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "ensemble", "messages": [{"role": "user", "content": text}], "seed": 7,
        "max_completion_tokens": 160, **more,
    }  # fmt: skip


def strict(name: str) -> Any:
    schema = {"name": name.replace(" ", "_"), "schema": SCHEMAS[name], "strict": True}
    return {"type": "json_schema", "json_schema": schema}


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_follows_its_schema_whole_and_streamed(client: OpenAI, name: str) -> None:
    body = question(f"Give an example of: {name}", response_format=strict(name))
    whole = client.chat.completions.create(**body).choices[0]
    assert whole.finish_reason == "stop"
    jsonschema.validate(json.loads(whole.message.content or ""), SCHEMAS[name])
    with client.chat.completions.stream(**body) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.message.content == whole.message.content
    assert streamed.finish_reason == "stop"


def test_several_answers_with_log_probs(client: OpenAI) -> None:
    body = question("A mood?", response_format=strict("sentiment"), n=3, logprobs=True)
    for choice in client.chat.completions.create(**body).choices:
        text = choice.message.content or ""
        jsonschema.validate(json.loads(text), SCHEMAS["sentiment"])
        assert choice.logprobs is not None
        told = b"".join(bytes(each.bytes or ()) for each in choice.logprobs.content or ())
        assert told.decode() == text


def test_vllms_fields_and_completions(client: OpenAI) -> None:
    choices = ["서울 👍🏽", "a.b|c"]
    for more in ({"structured_outputs": {"choice": choices}}, {"guided_choice": choices}):
        answer = client.chat.completions.create(**question("Which?"), extra_body=more)
        assert answer.choices[0].message.content in choices
        done = client.completions.create(
            model="ensemble", prompt=["Which?", "And?"], max_tokens=40, extra_body=more
        )
        assert all(choice.text in choices for choice in done.choices)


def test_json_objects(client: OpenAI) -> None:
    body = question("An empty JSON object, please.", response_format={"type": "json_object"})
    body["max_completion_tokens"] = 48
    answer = client.chat.completions.create(**body, temperature=0).choices[0]
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content or ""), dict)
    assert (answer.message.content or "").lstrip().startswith("{")


@pytest.mark.parametrize("name", [None, *PARAMETERS])
def test_a_forced_call(client: OpenAI, name: str | None) -> None:
    choice: Any = {"type": "function", "function": {"name": name}} if name else "required"
    body = question("How is the weather in Seoul?", tools=TOOLS, tool_choice=choice)
    whole = client.chat.completions.create(**body).choices[0]
    with client.chat.completions.stream(**body) as stream:
        streamed = stream.get_final_completion().choices[0]
    calls = []
    for answer in (whole, streamed):
        assert answer.finish_reason == ("stop" if name else "tool_calls")
        (call,) = answer.message.tool_calls or ()
        assert call.type == "function"
        assert name in (None, call.function.name)
        jsonschema.validate(json.loads(call.function.arguments), PARAMETERS[call.function.name])
        assert not answer.message.content
        calls.append((call.function.name, call.function.arguments))
    assert calls[0] == calls[1]


def test_a_forced_call_that_is_cut_is_no_call(client: OpenAI) -> None:
    body = question("Rate it.", tools=TOOLS, tool_choice="required")
    cut = client.chat.completions.create(**{**body, "max_completion_tokens": 14}).choices[0]
    assert cut.finish_reason == "length"


class Review(BaseModel):
    stars: int = Field(ge=1, le=5)
    mood: Literal["good", "bad"]
    words: list[Literal["fine", "cold", "loud"]] = Field(max_length=2)


class Cash(BaseModel):
    coins: int = Field(ge=0, le=99)


class Card(BaseModel):
    digits: str = Field(pattern="^[0-9]{4}$")


class Visit(BaseModel):
    guest: str = Field(max_length=8)
    review: Review | None
    paid: Cash | Card


class Language(Enum):
    ENGLISH = "en"
    KOREAN = "한국어"


class Page(BaseModel):
    number: int = Field(ge=1, le=9)
    language: Language


def test_the_librarys_parse_returns_objects(client: OpenAI) -> None:
    """50 of 50, at once."""
    kinds: list[Any] = [Review, Visit, Page, Card, Cash] * 10

    def parsed(seed: int) -> Any:
        body = question("An example, please.", response_format=kinds[seed])
        answer = client.chat.completions.parse(**body | {"seed": seed})
        return answer.choices[0].message.parsed

    with ThreadPoolExecutor(len(kinds)) as pool:
        objects = list(pool.map(parsed, range(len(kinds))))
    assert [type(each) for each in objects] == kinds


def test_reasoning_that_the_prompt_has_begun_is_free(client: OpenAI) -> None:
    body = question("Think.", response_format=strict("rating"))
    more = {"chat_template_kwargs": {"thinking": True}}
    cut = {**body, "max_completion_tokens": 12, "temperature": 0}
    answer = client.chat.completions.create(**cut, extra_body=more).choices[0]
    assert not answer.message.content
    assert len(answer.message.model_extra["reasoning_content"]) > 10  # type: ignore[index]
    assert "{" not in answer.message.model_extra["reasoning_content"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"response_format": {
            "type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "strin"}},
        }}, "response_format"),
        ({"extra_body": {"guided_regex": "a(b"}}, "guided_regex"),
        ({"extra_body": {"structured_outputs": {"grammar": "root = x"}}}, "structured_outputs"),
        ({"tools": [tool("f", {"type": "strin"})], "tool_choice": "required"}, "tools"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_guide_that_does_not_compile(client: OpenAI, more: Any, param: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**question("a"), **more, stream=stream)
    assert caught.value.param == param
    assert str(caught.value.body).count(param) >= 1
