"""Requests -> inputs of the ensemble; what cannot be honoured is a 400 that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trt_tokenizers.openai.api_error import ApiError
from trt_tokenizers.openai.requests import load_json, parse_chat, parse_completion, with_param

USER = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def chat(**fields: Any) -> Any:
    return parse_chat({"model": "m", "messages": USER, **fields})


def completion(**fields: Any) -> Any:
    return parse_completion({"model": "m", "prompt": "Hi", **fields})


def inputs(request: Any) -> dict[str, Any]:
    (prompt,) = request.prompts
    return dict(prompt)


def test_a_small_request_has_openais_defaults() -> None:
    request = chat()
    assert inputs(request) == {
        "messages": json.dumps(USER).encode(), "temperature": 1.0, "stream": True,
    }  # fmt: skip
    assert (request.n, request.stream, request.tools) == (1, False, None)
    assert inputs(completion()) == {
        "text_input": b"Hi", "max_tokens": 16, "temperature": 1.0, "stream": True,
    }  # fmt: skip


SAME = {
    "top_p": 0.5, "seed": 2**63, "presence_penalty": -1, "frequency_penalty": 1.5, "top_k": 5,
    "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 3, "max_tokens": 9, "temperature": 0,
    "skip_special_tokens": False, "include_stop_str_in_output": True,
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_fields_that_go_to_the_ensemble_unchanged(name: str) -> None:
    for parse in (chat, completion):
        assert inputs(parse(**{name: SAME[name]}))[name] == SAME[name]


def test_fields_with_other_names() -> None:
    given = inputs(
        chat(
            max_completion_tokens=7,
            n=3,
            stop="x",
            logit_bias={"5": -100, "7": 1.5},
            ignore_eos=True,
            logprobs=True,
            top_k=-1,
        )
    )
    assert given["max_tokens"] == 7
    assert given["num_return_sequences"] == 3
    assert given["stop_words"] == [b"x"]
    assert (given["logit_bias_ids"], given["logit_bias_values"]) == ([5, 7], [-100, 1.5])
    assert given["end_id"] == -1
    assert given["return_log_probs"] is True
    assert given["top_k"] == 0


def test_null_means_not_sent() -> None:
    assert inputs(chat(temperature=None, stop=None, tools=None, response_format=None)) == inputs(
        chat()
    )


def test_messages_and_tools_go_in_as_they_came() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "안녕"}], "extra": 1.5}]
    given = inputs(chat(messages=messages, tools=[TOOL]))
    assert json.loads(given["messages"]) == messages
    assert json.loads(given["tools"]) == [TOOL]


def test_both_names_of_reasoning_reach_the_template() -> None:
    for name in ("reasoning", "reasoning_content"):
        message = {"role": "assistant", "content": "a", name: "because"}
        (got,) = json.loads(inputs(chat(messages=[message]))["messages"])
        assert got == {"role": "assistant", "content": "a", "reasoning_content": "because"}


def test_template_variables() -> None:
    given = inputs(
        chat(
            chat_template_kwargs={"enable_thinking": False},
            reasoning_effort="low",
            add_generation_prompt=False,
            continue_final_message=True,
        )
    )
    assert json.loads(given["chat_template_kwargs"]) == {
        "enable_thinking": False, "reasoning_effort": "low", "add_generation_prompt": False,
        "continue_final_message": True,
    }  # fmt: skip


def test_tool_choice_none_hides_the_tools() -> None:
    request = chat(tools=[TOOL], tool_choice="none")
    assert request.tools is None
    assert "tools" not in inputs(request)
    assert chat(tools=[TOOL], tool_choice="auto").tools == [TOOL]


def test_several_prompts_and_echo() -> None:
    request = completion(prompt=["a", "b"], echo=True, n=2)
    assert [prompt["text_input"] for prompt in request.prompts] == [b"a", b"b"]
    assert request.echo == ("a", "b")


BAD_CHAT: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": "hot"}, "temperature", "temperature is a string; it must be a number"),
    ({"temperature": True}, "temperature", "temperature is a boolean"),
    ({"temperature": -1}, "temperature", "temperature is -1; it must be between 0 and 100"),
    ({"temperature": 1e999}, "temperature", "temperature is inf"),
    ({"top_p": 1.5}, "top_p", "top_p is 1.5"),
    ({"max_tokens": 0}, "max_tokens", "max_tokens is 0; it must be at least 1"),
    ({"max_tokens": 2**40}, "max_tokens", "max_tokens is 1099511627776"),
    ({"max_tokens": 1.5}, "max_tokens", "must be an integer"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "differ"),
    ({"n": 0}, "n", "n is 0; it must be between 1 and 128"),
    ({"n": 129}, "n", "n is 129"),
    ({"seed": -1}, "seed", "seed is -1"),
    ({"top_k": -2}, "top_k", "top_k is -2"),
    ({"stop": [1]}, "stop", "stop must be a string or a list of strings"),
    ({"stop": "\ud800"}, "stop", "half of a surrogate pair"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "the key 'a'"),
    ({"logit_bias": {"1": 101}}, "logit_bias", "token 1 must be a number from -100"),
    ({"top_logprobs": 2}, "top_logprobs", "only the chosen token's"),
    ({"logprobs": 1}, "logprobs", "must be a boolean"),
    ({"functions": []}, "functions", "send tools"),
    ({"store": True}, "store", "nothing is stored; send false"),
    ({"modalities": ["audio"]}, "modalities", "text only"),
    ({"service_tier": "flex"}, "service_tier", 'send "auto" or "default"'),
    ({"stream_options": {"include_usage": True}}, "stream_options", "only for stream true"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options", "stream_options.x"),
    ({"messages": []}, "messages", "missing or empty"),
    ({"messages": None}, "messages", "missing or empty"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "surrogate"),
    ({"model": None}, "model", "model is missing"),
    ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
    ({"prompt": "x"}, "prompt", "unknown field 'prompt'"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "message"), BAD_CHAT, ids=str)
def test_what_cannot_be_honoured_is_a_400(fields: Any, param: str, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    error = caught.value.body()["error"]
    assert (caught.value.status, error["param"]) == (400, param)
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": []}, "prompt", "missing or empty"),
        ({"prompt": [1, 2]}, "prompt", "token ids"),
        ({"prompt": [[1]]}, "prompt", "token ids"),
        ({"prompt": ["a"] * 129}, "prompt", "129 texts"),
        ({"logprobs": 5}, "logprobs", "send 0"),
        ({"echo": True, "logprobs": 0}, "echo", "send one of them"),
        ({"best_of": 2}, "best_of", "send n"),
        ({"suffix": "x"}, "suffix", "inserts no text"),
        ({"messages": USER}, "messages", "unknown field"),
    ],
)
def test_what_completions_refuse(fields: Any, param: str, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        completion(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 10**6, b'{"a": NaN}', b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_a_body_that_is_no_json(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        load_json(body)
    assert caught.value.status == 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [[], "x", 1, None])
def test_json_that_is_no_object(body: Any) -> None:
    with pytest.raises(ApiError, match="must be a JSON object"):
        parse_chat(body)


def test_values_nested_too_deeply() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ApiError, match="messages is nested too deeply"):
        chat(messages=[deep])


def test_errors_of_the_ensemble_name_the_clients_field() -> None:
    fields = {"num_return_sequences": "n", "text_input": "prompt"}
    error = with_param(ApiError(400, "num_return_sequences is 9; it must be less"), fields)
    assert (str(error), error.param) == ("n is 9; it must be less", "n")
    error = with_param(ApiError(400, "messages[0] has no role"), fields)
    assert (str(error), error.param) == ("messages[0] has no role", "messages")
    error = with_param(ApiError(400, "parameter 'text_input' is not supported"), fields)
    assert (str(error), error.param) == ("prompt is not supported", "prompt")
    error = with_param(ApiError(400, "the prompt has 9 tokens"), fields)
    assert (str(error), error.param) == ("the prompt has 9 tokens", None)
