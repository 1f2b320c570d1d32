"""A request's JSON -> what the ensemble gets, and how to answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trt_tokenizers.openai.api_error import ApiError, refused
from trt_tokenizers.openai.fields import (
    CHAT,
    COMPLETIONS,
    Field,
    as_bytes,
    as_json,
    check_fields,
)
from trt_tokenizers.openai.guides import Guide, parse_forced, parse_guide

_MAX_PROMPTS = 128
_COMPLETION_TOKENS = 16  # OpenAI's default
_TEMPERATURE = 1.0  # OpenAI's default; without any sampling input the ensemble is greedy
_TEMPLATE_VARIABLES = (
    "reasoning_effort", "chat_template", "add_generation_prompt", "continue_final_message"
)  # fmt: skip


@dataclass(frozen=True)
class AnswerRequest:
    """A checked request.

    Attributes:
        model: as the client wrote it.
        prompts: one set of inputs of the ensemble for each prompt: name -> value or list.
        n: answers to each prompt.
        stream: answer with events.
        include_usage: end the events with the usage.
        logprobs: send log-probabilities.
        guide: what the answer must follow; None for nothing.
        tools: functions that the model may call; None for none.
        forced: those of them of which it must call one; empty: it need not.
        named: the client has named the one of *forced*.
        parallel_tool_calls: false: only the first call is given out.
        keep_special: special tokens stay in the text.
        return_token_ids: send the ids of prompt and answers.
        echo: the prompts' texts, which go before their answers; empty for none.
        fields: input of the ensemble -> the client's field, for error messages.
    """

    model: str
    prompts: list[dict[str, Any]]
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    guide: Guide | None = None
    tools: list[dict[str, Any]] | None = None
    forced: list[dict[str, Any]] = field(default_factory=list)
    named: bool = False
    parallel_tool_calls: bool = True
    keep_special: bool = False
    return_token_ids: bool = False
    echo: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, str]:
        """More outputs of the ensemble that the answers need -> the client's field."""
        log_probs = {"output_tokens": "logprobs", "output_log_probs": "logprobs"}
        ids = {"token_ids": "return_token_ids"}
        return (log_probs if self.logprobs else {}) | (ids if self.return_token_ids else {})


def load_json(body: bytes) -> Any:
    """Parse the *body* of a request.

    Raises:
        ApiError: 400, it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(body, parse_constant=_no_number)
    except RecursionError:
        raise refused(None, "the request is nested too deeply; send less nesting") from None
    except ValueError as error:  # UnicodeDecodeError too
        raise refused(None, f"the request is not JSON: {error}; send a JSON object") from None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def parse_chat(body: Any) -> AnswerRequest:
    """Check a request to /v1/chat/completions.

    Raises:
        ApiError: 400, names the field.
    """
    given = check_fields(body, CHAT)
    inputs = chat_inputs(given)
    newer, older = given.get("max_completion_tokens"), given.get("max_tokens")
    if newer and older and newer != older:
        raise refused("max_tokens", "max_tokens and max_completion_tokens differ; send one of them")
    forced = parse_forced(given)
    request = _request(
        given,
        CHAT,
        [inputs],
        logprobs=given.get("logprobs", False),
        forced=forced,
        named=isinstance(given.get("tool_choice"), dict),
    )
    if forced and request.guide:
        field_ = request.guide.field
        raise refused(field_, f"tool_choice and {field_} are two guides, but an answer follows "
                      "one; send one")  # fmt: skip
    return request


def chat_inputs(given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that make the prompt of a conversation: messages, tools, variables.

    Raises:
        ApiError: 400, names the field.
    """
    if not given.get("messages"):
        raise refused("messages", "messages is missing or empty; send at least one message")
    messages = [_with_reasoning(message) for message in given["messages"]]
    inputs = {"messages": as_json(messages, "messages")}
    if tools := _tools(given):
        inputs["tools"] = as_json(tools, "tools")
    variables = dict(given.get("chat_template_kwargs", {}))
    variables |= {name: given[name] for name in _TEMPLATE_VARIABLES if name in given}
    if variables:
        inputs["chat_template_kwargs"] = as_json(variables, "chat_template_kwargs")
    return inputs


def _with_reasoning(message: Any) -> Any:
    """*message* with its ``reasoning`` under the name that templates read."""
    if isinstance(message, dict) and "reasoning" in message:
        message = {"reasoning_content": message["reasoning"], **message}
        del message["reasoning"]
    return message


def _tools(given: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The tools that the model sees."""
    return None if given.get("tool_choice") == "none" else given.get("tools") or None


def parse_completion(body: Any) -> AnswerRequest:
    """Check a request to /v1/completions.

    Raises:
        ApiError: 400, names the field.
    """
    given = check_fields(body, COMPLETIONS)
    prompt = given.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not prompts:
        raise refused("prompt", "prompt is missing or empty; send a text or a list of texts")
    if not all(isinstance(each, str) for each in prompts):
        raise refused("prompt", "prompt holds token ids; the ensemble takes text only: send texts")
    if len(prompts) > _MAX_PROMPTS:
        raise refused(
            "prompt", f"prompt has {len(prompts)} texts; at most {_MAX_PROMPTS} are served: send "
            "several requests"
        )  # fmt: skip
    echo = tuple(prompts) if given.get("echo") else ()
    if echo and "logprobs" in given:
        raise refused("echo", "echo and logprobs are both given, but log-probabilities of the "
                      "prompt are not known; send one of them")  # fmt: skip
    inputs = [{"text_input": as_bytes(each, "prompt")} for each in prompts]
    given.setdefault("max_tokens", _COMPLETION_TOKENS)
    return _request(given, COMPLETIONS, inputs, logprobs="logprobs" in given, echo=echo)


def _request(
    given: dict[str, Any],
    fields: Mapping[str, Field],
    prompts: list[dict[str, Any]],
    **more: Any,
) -> AnswerRequest:
    if "model" not in given:
        raise refused("model", "model is missing; send the name of the served model")
    given.setdefault("temperature", _TEMPERATURE)
    if given.get("top_k") == -1:
        given["top_k"] = 0
    carried = {name: fields[name].input for name in given if fields[name].input}
    inputs: dict[str, Any] = {input_: given[name] for name, input_ in carried.items()}
    names = {input_: name for name, input_ in carried.items()}
    if stop := _stop(given):
        inputs["stop_words"], names["stop_words"] = stop, "stop"
    if bias := _logit_bias(given.get("logit_bias", {})):
        inputs["logit_bias_ids"], inputs["logit_bias_values"] = bias
        names["logit_bias_ids"] = names["logit_bias_values"] = "logit_bias"
    if given.get("ignore_eos"):
        inputs["end_id"], names["end_id"] = -1, "ignore_eos"
    if more["logprobs"]:
        inputs["return_log_probs"], names["return_log_probs"] = True, "logprobs"
    if given.get("return_token_ids"):
        inputs["return_token_ids"], names["return_token_ids"] = True, "return_token_ids"
    return AnswerRequest(
        model=given["model"],
        prompts=[{**prompt, **inputs, "stream": True} for prompt in prompts],
        n=given.get("n", 1),
        stream=given.get("stream", False),
        include_usage=_include_usage(given),
        guide=parse_guide(given),
        tools=_tools(given),
        parallel_tool_calls=given.get("parallel_tool_calls", True),
        keep_special=given.get("skip_special_tokens") is False,
        return_token_ids=given.get("return_token_ids", False),
        fields={"text_input": "prompt", **names},
        **more,
    )


def _stop(given: Mapping[str, Any]) -> list[bytes]:
    stop = given.get("stop", [])
    words = [stop] if isinstance(stop, str) else stop
    if not all(isinstance(word, str) for word in words):
        raise refused("stop", "stop must be a string or a list of strings")
    return [as_bytes(word, "stop") for word in words if word]


def _logit_bias(bias: Mapping[str, Any]) -> tuple[list[int], list[float]] | None:
    ids = []
    for token, value in bias.items():
        if not token.isascii() or not token.isdigit() or len(token) > 9:
            raise refused("logit_bias", f"logit_bias has the key {token[:64]!r}; it must be a "
                          "token id")  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 100:
            raise refused("logit_bias", f"logit_bias of token {token} must be a number from -100 "
                          "to 100")  # fmt: skip
        ids.append(int(token))
    return (ids, list(bias.values())) if ids else None


def _include_usage(given: Mapping[str, Any]) -> bool:
    options = given.get("stream_options", {})
    if options and not given.get("stream"):
        raise refused("stream_options", "stream_options is only for stream true; leave it out")
    for name, value in options.items():
        # Both of the others change what every chunk holds.
        known = name == "include_usage" and isinstance(value, bool)
        if not known and value not in (None, False):
            raise refused("stream_options", f"stream_options.{name[:64]} is not served; leave it "
                          "out")  # fmt: skip
    return options.get("include_usage") is True


#: The input that an error message of the ensemble begins with.
_INPUT = re.compile(r"(?:parameter ')?(\w+)'?")


def with_param(error: ApiError, fields: Mapping[str, str]) -> ApiError:
    """*error* of the ensemble, whose message begins with an input, naming the client's field."""
    found = _INPUT.match(str(error))
    if error.status != 400 or error.param or found is None:
        return error
    name, rest = found[1], str(error)[found.end() :]
    param = fields.get(name) or (name if name in CHAT or name in COMPLETIONS else None)
    text = f"{param}{rest}" if param else str(error)
    return ApiError(400, text, param=param, code=error.code)


#: Path -> parser.
PARSERS: dict[str, Callable[[Any], AnswerRequest]] = {
    "/v1/chat/completions": parse_chat,
    "/v1/completions": parse_completion,
}
