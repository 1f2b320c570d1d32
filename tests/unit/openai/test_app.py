"""The endpoints, without a network and without Triton."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from answers import openai_type
from asgi import ENSEMBLE, WHOLE, ScriptedTriton, app, ask
from trt_tokenizers.openai import event_stream
from trt_tokenizers.openai.api_error import ApiError
from trt_tokenizers.openai.fields import CHAT as CHAT_FIELDS
from trt_tokenizers.openai.tensors import Step
from trt_tokenizers.openai.triton import Model as TritonModel

CHAT = {"model": "ensemble", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**CHAT, "stream": True}
COMPLETION = {"model": "ensemble", "prompt": "Hi"}


def chat(triton: ScriptedTriton, body: Any = CHAT, **options: Any) -> Any:
    return ask(app(triton, **options), "/v1/chat/completions", body)


def test_a_whole_answer() -> None:
    triton = ScriptedTriton()
    answer = chat(triton)
    whole = openai_type("ChatCompletion").model_validate(answer.json)
    assert answer.status == 200
    assert whole.choices[0].message.content == "Paris."
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (5, 2)
    assert json.loads(triton.asked[0]["messages"]) == CHAT["messages"]


def test_a_stream_says_the_same() -> None:
    answer = chat(ScriptedTriton(), {**STREAM, "stream_options": {"include_usage": True}})
    chunks = [openai_type("ChatCompletionChunk").model_validate(event) for event in answer.events]
    assert len({chunk.id for chunk in chunks}) == 1
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "Paris."
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None, None, "stop"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7


def test_usage_only_if_asked_for_or_forced() -> None:
    assert not any("usage" in event for event in chat(ScriptedTriton(), STREAM).events)
    assert chat(ScriptedTriton(), STREAM, force_usage=True).events[-1]["usage"]


def test_completions_with_several_prompts_and_answers() -> None:
    steps = [Step(1, "b", "length", 2, 3), Step(0, "a", "stop", 2, 1)]
    triton = ScriptedTriton(steps)
    body = {**COMPLETION, "prompt": ["x", "y"], "n": 2}
    answer = openai_type("Completion").model_validate(
        ask(app(triton), "/v1/completions", body).json
    )
    assert sorted((c.index, c.text, c.finish_reason) for c in answer.choices) == [
        (0, "a", "stop"), (1, "b", "length"), (2, "a", "stop"), (3, "b", "length"),
    ]  # fmt: skip
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 8)
    assert sorted(each["text_input"] for each in triton.asked) == [b"x", b"y"]
    assert all(each["num_return_sequences"] == 2 for each in triton.asked)


REFUSED = ApiError(400, "num_return_sequences is 3; it must be less")


@pytest.mark.parametrize("body", [{**CHAT, "n": 3}, {**STREAM, "n": 3}])
def test_an_error_before_the_first_token_has_its_status(body: Any) -> None:
    answer = chat(ScriptedTriton([REFUSED]), body)
    assert answer.status == 400
    assert answer.json["error"]["param"] == "n"
    assert answer.json["error"]["message"] == "n is 3; it must be less"


def test_one_bad_prompt_of_several_cancels_the_others() -> None:
    triton = ScriptedTriton([REFUSED])
    body = {**COMPLETION, "prompt": ["a", "b", "c"], "stream": True}
    assert ask(app(triton), "/v1/completions", body).status == 400


def test_an_error_in_a_stream_is_its_last_event() -> None:
    triton = ScriptedTriton([Step(text="Par"), ApiError(503, "the engine is gone")])
    answer = chat(triton, STREAM)
    assert answer.status == 200
    assert answer.events[-1]["error"]["message"] == "the engine is gone"
    assert chat(triton).status == 503
    assert chat(triton).headers["retry-after"] == "1"


def test_a_bug_is_a_500_that_says_nothing_of_the_inside(caplog: Any) -> None:
    answer = chat(ScriptedTriton([ZeroDivisionError("secret")]))
    assert answer.status == 500
    assert "secret" not in answer.body.decode()
    assert "secret" in caplog.text


def test_an_answer_without_an_end_is_an_error() -> None:
    assert chat(ScriptedTriton([Step(text="Par")])).status == 500
    cancelled = Step(finish_reason="cancelled")
    assert chat(ScriptedTriton([Step(text="Par"), cancelled])).status == 503


@pytest.mark.parametrize("steps", [[1000], [Step(text="a"), 1000]], ids=["queued", "running"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_is_gone_is_cancelled_at_once(steps: list[Any], stream: bool) -> None:
    triton = ScriptedTriton(steps)
    body = {**CHAT, "stream": stream}
    ask(app(triton), "/v1/chat/completions", body, hang_up_s=0.05)
    assert triton.cancelled == 1
    several = {**COMPLETION, "prompt": ["a", "b"], "stream": stream}
    ask(app(triton), "/v1/completions", several, hang_up_s=0.05)
    assert triton.cancelled == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_left_while_its_request_waited_asks_nothing_of_triton(stream: bool) -> None:
    triton = ScriptedTriton([1000])
    ask(app(triton), "/v1/chat/completions", {**CHAT, "stream": stream}, hang_up_s=0)
    assert triton.asked == []


def test_comments_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "SILENCE_S", 0.05)
    steps = [0.12, Step(text="a"), 0.12, Step(finish_reason="stop")]
    answer = chat(ScriptedTriton(steps), STREAM)
    kinds = [piece[:1] for piece in answer.pieces]
    assert kinds.count(b":") in (4, 3, 2)
    assert kinds.index(b":") < kinds.index(b"d")
    assert answer.events[-1]["choices"][0]["finish_reason"] == "stop"
    late = chat(ScriptedTriton([0.12, REFUSED]), STREAM)
    assert late.status == 200
    assert late.events[-1]["error"]["param"] is None or late.events[-1]["error"]["param"] == "n"


def test_models() -> None:
    application = app(ScriptedTriton(), names=("big", "b"), adapters=("sql",))
    cards = ask(application, "/v1/models").json["data"]
    assert [openai_type("Model").model_validate(card).id for card in cards] == ["big", "b", "sql"]
    assert ask(application, "/v1/models/sql").json["parent"] == "big"
    assert ask(application, "/v1/models/other").status == 404
    answer = ask(application, "/v1/chat/completions", CHAT)
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")


def test_an_adapter_is_asked_for_by_its_name() -> None:
    triton = ScriptedTriton()
    assert chat(triton, {**CHAT, "model": "sql"}, adapters=("sql",)).status == 200
    assert triton.asked[0]["lora_name"] == b"sql"


def test_an_ensemble_without_an_input_refuses_its_field_and_only_that() -> None:
    inputs = {name: kind for name, kind in ENSEMBLE.inputs.items() if name != "logit_bias_ids"}
    triton = ScriptedTriton(model=TritonModel(inputs, ENSEMBLE.outputs))
    assert chat(triton).status == 200
    answer = chat(triton, {**CHAT, "logit_bias": {"1": 1}})
    assert (answer.status, answer.json["error"]["param"]) == (400, "logit_bias")
    bare = ScriptedTriton(model=TritonModel(ENSEMBLE.inputs, {}))
    assert chat(bare, {**CHAT, "logprobs": True}).json["error"]["param"] == "logprobs"
    bare.template = "a"
    answer = chat(bare, {**CHAT, "return_token_ids": True})
    assert (answer.status, answer.json["error"]["param"]) == (400, "return_token_ids")


def test_token_ids_of_prompt_and_answer() -> None:
    steps = [Step(token_ids=[5]), Step(text="ab", token_ids=[6, 7]), Step(finish_reason="stop")]
    triton = ScriptedTriton(steps, template="a", prompt="Hi", ids=(1, 2))
    whole = chat(triton, {**CHAT, "return_token_ids": True}).json
    assert whole["prompt_token_ids"] == [1, 2]
    assert whole["choices"][0]["token_ids"] == [5, 6, 7]
    events = chat(triton, {**STREAM, "return_token_ids": True}).events
    assert ["prompt_token_ids" in event for event in events] == [True] + [False] * (len(events) - 1)
    assert [event["choices"][0].get("token_ids") for event in events] == [[5], [6, 7], None]
    assert triton.asked[0]["return_token_ids"] is True
    assert triton.outputs[0] == ["token_ids"]
    plain = chat(ScriptedTriton()).json
    assert "prompt_token_ids" not in plain
    assert "token_ids" not in plain["choices"][0]


def test_markers_are_asked_for_only_if_a_parser_may_need_them() -> None:
    triton = ScriptedTriton()
    chat(triton)
    assert "return_added_tokens" not in triton.asked[0]
    assert triton.outputs[0] == []
    tools = [{"type": "function", "function": {"name": "f"}}]
    chat(triton, {**CHAT, "tools": tools}, tool_parser="hermes")
    assert triton.asked[1]["return_added_tokens"] is True
    assert triton.asked[1]["skip_special_tokens"] is False
    assert triton.outputs[1] == ["added_tokens", "prompt_end"]


def test_hidden_tokens_are_left_out_unless_the_client_wants_them() -> None:
    steps = [Step(text="a<s>b", added=(1, 4, 1)), Step(finish_reason="stop")]
    answer = chat(ScriptedTriton(steps), reasoning_parser="think")
    assert answer.json["choices"][0]["message"]["content"] == "ab"
    body = {**CHAT, "skip_special_tokens": False}
    answer = chat(ScriptedTriton(steps), body, reasoning_parser="think")
    assert answer.json["choices"][0]["message"]["content"] == "a<s>b"


def test_an_ensemble_with_another_preprocessing_is_served_without_its_template() -> None:
    unknown = ApiError(404, "Request for unknown model: 'preprocessing' is not found")
    assert chat(ScriptedTriton(no_preprocessing=unknown)).status == 200
    assert chat(ScriptedTriton(no_preprocessing=ApiError(503, "gone"))).status == 503
    answer = ask(app(ScriptedTriton()), "/tokenize", {"model": "ensemble", "prompt": "a"})
    assert (answer.status, answer.json["error"]["type"]) == (501, "server_error")


def test_health_follows_triton() -> None:
    triton = ScriptedTriton()
    assert ask(app(triton), "/health/live").status == 200
    assert ask(app(triton), "/health/ready").status == 200
    triton.is_ready = False
    assert ask(app(triton), "/health/live").status == 200
    assert ask(app(triton), "/health/ready").status == 503


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/v2/x", "GET", 404), ("/v1/chat/completions", "GET", 405)]
)
def test_other_paths_and_methods(path: str, method: str, status: int) -> None:
    answer = ask(app(ScriptedTriton()), path, method=method)
    assert answer.status == status
    message = f"{method} {path} is not served; /openapi.json lists what is"
    assert answer.json["error"]["message"] == message


def test_two_hundred_clients_that_hang_up_leave_nothing() -> None:
    triton = ScriptedTriton([Step(text="a"), 1000])
    application = app(triton)
    for _ in range(200):
        ask(application, "/v1/chat/completions", STREAM, hang_up_s=0.001)
    assert triton.cancelled == len(triton.asked)
    assert "requests_running 1" in ask(application, "/metrics").body.decode()
    assert len(WHOLE) == 3
    assert asyncio.run(triton.ready())


def test_the_description_has_every_field_and_follows_json_schema() -> None:
    description = ask(app(ScriptedTriton()), "/openapi.json").json
    post = description["paths"]["/v1/chat/completions"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"].keys() == CHAT_FIELDS.keys()
    jsonschema.validate(CHAT, schema)
    for wrong in ({**CHAT, "top_p": 2}, {**CHAT, "store": True}, {"model": "m"}, {**CHAT, "x": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
