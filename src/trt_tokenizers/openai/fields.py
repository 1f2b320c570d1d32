"""The table of request fields: each field once, with its type and what becomes of it.

Types and ranges of fields that an input of the ensemble carries come from the table of inputs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trt_tokenizers.openai.api_error import refused
from trt_tokenizers.settings import nearest
from trt_tokenizers.streams.ensemble_inputs import BY_NAME, Range

#: JSON's name of a type -> Python's types.
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
_NAMES = {
    str: "a string", int: "an integer", float: "a number", bool: "a boolean", list: "an array",
    dict: "an object", type(None): "null",
}  # fmt: skip
#: Numbers that fit into a tensor.
_BOUNDS = {
    "INT32": Range(-(2**31), 2**31 - 1),
    "UINT64": Range(0, 2**64 - 1),
    "FP32": Range(-3.4e38, 3.4e38),
}
_ONE = "only the chosen token's log-probability is known"


@dataclass(frozen=True)
class Field:
    """One field of a request.

    Attributes:
        name: OpenAI's or vLLM's name.
        types: JSON's names of the types, separated by ``|``.
        input: the ensemble's input that carries the value unchanged.
        chat, completions: whether the endpoint has it.
        only: the values that are accepted, without effect; None for all values.
        reason: why other values are refused.
        range: valid values; default: those of *input*.
        meaning: for docs/openai.md.
    """

    name: str
    types: str
    input: str = ""
    chat: bool = True
    completions: bool = True
    only: tuple[Any, ...] | None = None
    reason: str = ""
    range: Range | None = None
    meaning: str = ""

    def check(self, value: Any) -> None:
        """Refuse a *value* of the wrong type, or outside the range.

        Raises:
            ApiError: 400, names the field.
        """
        if not any(_is(value, each) for each in self.types.split("|")):
            found = _NAMES[type(value)]
            wanted = " or ".join(_NAMES[_TYPES[each][-1]] for each in self.types.split("|"))
            raise refused(self.name, f"{self.name} is {found}; it must be {wanted}")
        if self.only is not None and value not in self.only:
            valid = " or ".join(json.dumps(each) for each in self.only)
            fix = f"send {valid}, or leave it out" if valid else "leave it out"
            raise refused(self.name, f"{self.name} is not served: {self.reason}; {fix}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            self._check_number(value)

    def _check_number(self, value: float) -> None:
        carried = BY_NAME.get(self.input)
        valid = self.range or (carried.range if carried else None)
        if carried is not None and value == carried.not_set:
            return
        for each in (_BOUNDS.get(carried.type) if carried else None, valid):
            if each is not None and (value not in each or math.isnan(value)):
                raise refused(self.name, f"{self.name} is {value}; it must be {valid or each}")


def _is(value: Any, name: str) -> bool:
    """Whether *value* has JSON's type *name*; a boolean is no number."""
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


#: In the order of the documentation.
FIELDS = (
    Field("model", "string", meaning="the served model, or an adapter by its name; 404 for others"),
    Field("messages", "array", completions=False, meaning="the conversation, rendered by the "
          "model's own template. Content is a string or a list of text parts"),
    Field("prompt", "string|array", chat=False, meaning="a text, or a list of up to 128 texts; "
          "token ids are refused"),
    Field("stream", "boolean", meaning="answer with server-sent events"),
    Field("stream_options", "object", meaning="`include_usage`: a last chunk with the usage"),
    Field("max_tokens", "integer", "max_tokens", meaning="most tokens of an answer; default: "
          "16 for completions, else the setting `default_max_tokens` of preprocessing"),
    Field("max_completion_tokens", "integer", "max_tokens", completions=False, meaning="newer "
          "name of `max_tokens`"),
    Field("temperature", "number", "temperature", meaning="default 1, as OpenAI's; 0 is greedy"),
    Field("top_p", "number", "top_p", meaning="nucleus sampling"),
    Field("n", "integer", "num_return_sequences", range=Range(1, 128), meaning="answers to each "
          "prompt"),
    Field("stop", "string|array", meaning="text or texts that end the answer"),
    Field("seed", "integer", "seed", meaning="same seed, same text"),
    Field("logit_bias", "object", meaning="token id -> bias, -100 to 100"),
    Field("presence_penalty", "number", "presence_penalty", meaning="as OpenAI's"),
    Field("frequency_penalty", "number", "frequency_penalty", meaning="as OpenAI's"),
    Field("logprobs", "boolean", completions=False, meaning="log-probabilities of the chosen "
          "tokens"),
    Field("logprobs", "integer", chat=False, only=(0,), reason=_ONE, meaning="0 only"),
    Field("top_logprobs", "integer", completions=False, only=(0,), reason=_ONE, meaning="0 only"),
    Field("echo", "boolean", chat=False, meaning="put the prompt before the answer"),
    Field("tools", "array", completions=False, meaning="functions that the model may call"),
    Field("tool_choice", "string|object", completions=False, meaning="`auto`, or `none`, which "
          "keeps the tools from the model; `required` or a named function: one "
          "[call](#structured-output)"),
    Field("parallel_tool_calls", "boolean", completions=False, meaning="false: only the first call "
          "of an answer is given out"),
    Field("reasoning_effort", "string", completions=False, meaning="a variable of the template"),
    Field("chat_template_kwargs", "object", completions=False, meaning="variables of the template"),
    Field("chat_template", "string", completions=False, meaning="another template, if the server "
          "accepts one"),
    Field("add_generation_prompt", "boolean", completions=False, meaning="default true"),
    Field("continue_final_message", "boolean", completions=False, meaning="the answer continues "
          "the last message"),
    Field("top_k", "integer", "top_k", range=Range(-1), meaning="0 or -1: off"),
    Field("min_p", "number", "min_p", meaning="as vLLM's"),
    Field("repetition_penalty", "number", "repetition_penalty", meaning="as vLLM's"),
    Field("min_tokens", "integer", "min_tokens", meaning="no end before so many tokens"),
    Field("ignore_eos", "boolean", meaning="only `max_tokens` or `stop` ends the answer"),
    Field("skip_special_tokens", "boolean", "skip_special_tokens", meaning="false: special tokens "
          "stay in the text"),
    Field("return_token_ids", "boolean", completions=False, meaning="add "
          "`prompt_token_ids`, and `token_ids` to each choice: the counted tokens, also "
          "those without text"),
    Field("include_stop_str_in_output", "boolean", "include_stop_str_in_output", meaning="end "
          "after the stop text"),
    Field("user", "string", meaning="no effect"),
    Field("metadata", "object", meaning="no effect"),
    Field("safety_identifier", "string", meaning="no effect"),
    Field("prompt_cache_key", "string", meaning="no effect"),
    Field("store", "boolean", only=(False,), reason="nothing is stored", meaning="false only"),
    Field("service_tier", "string", only=("auto", "default"), reason="there is one tier",
          meaning="`auto` or `default`, no effect"),
    Field("modalities", "array", completions=False, only=(["text"],),
          reason="the model writes text only", meaning='`["text"]` only'),
    Field("response_format", "object", meaning="`text`, `json_object` or `json_schema`, which is "
          "always [strict](#structured-output)"),
    Field("structured_outputs", "object", meaning="vLLM's: one of `json`, `regex`, `choice`, "
          "`grammar`, `structural_tag`, `json_object`"),
    Field("guided_json", "string|object", meaning="older name of `structured_outputs.json`"),
    Field("guided_regex", "string", meaning="the same of `regex`"),
    Field("guided_choice", "array", meaning="the same of `choice`"),
    Field("guided_grammar", "string", meaning="the same of `grammar`"),
    Field("functions", "array", completions=False, only=(), reason="it is OpenAI's old form; "
          "send tools", meaning="refused; send `tools`"),
    Field("function_call", "string|object", completions=False, only=(), reason="it is OpenAI's old "
          "form; send tool_choice", meaning="refused; send `tool_choice`"),
    Field("best_of", "integer", chat=False, only=(1,), reason="every answer is given out; send n",
          meaning="1 only"),
    Field("suffix", "string", chat=False, only=("",), reason="the ensemble inserts no text",
          meaning="refused"),
)  # fmt: skip
CHAT = {each.name: each for each in FIELDS if each.chat}
COMPLETIONS = {each.name: each for each in FIELDS if each.completions}


def markdown() -> str:
    """The table of docs/openai.md."""
    rows = []
    for each in FIELDS:
        where = {(True, False): "chat", (False, True): "completions"}.get(
            (each.chat, each.completions), "both"
        )
        rows.append(f"| `{each.name}` | {where} | {each.meaning} |\n")
    return "| field | endpoint | meaning |\n|---|---|---|\n" + "".join(rows)


def check_fields(body: Any, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The fields of *body* that are not null, checked.

    Raises:
        ApiError: 400, names the first field that is unknown or has a wrong value.
    """
    if not isinstance(body, dict):
        raise refused(None, "the request must be a JSON object")
    given = {}
    for name, value in body.items():
        if name not in fields:
            message = f"unknown field {name[:64]!r}{nearest(name[:64], fields)}; leave it out"
            raise refused(name[:64], message, code="unknown_parameter")
        if value is not None:
            fields[name].check(value)
            given[name] = value
    return given


def as_json(value: Any, name: str) -> bytes:
    """*value* as JSON text for the input *name*.

    Raises:
        ApiError: 400, a text has half of a surrogate pair, or the nesting is too deep.
    """
    try:
        return as_bytes(json.dumps(value, ensure_ascii=False), name)
    except RecursionError:
        raise refused(name, f"{name} is nested too deeply; send less nesting") from None


def as_bytes(text: str, name: str) -> bytes:
    """*text* for the input *name*.

    Raises:
        ApiError: 400, it has half of a surrogate pair.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise refused(
            name, f"{name} contains half of a surrogate pair; send whole characters"
        ) from None
