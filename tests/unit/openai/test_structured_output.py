"""What a client demands of an answer's form -> the guide, as data."""

from __future__ import annotations

import json
import re
from importlib.metadata import entry_points
from typing import Any

import pytest

from answers import parse
from asgi import ENSEMBLE, ScriptedTriton, app, ask
from families_written import FORMS
from trt_tokenizers.openai.api_error import ApiError
from trt_tokenizers.openai.guides import JSON_CALLS
from trt_tokenizers.openai.parsing import TOOL_PARSERS, Piece, make_parser, tool_format
from trt_tokenizers.openai.requests import parse_chat, parse_completion
from trt_tokenizers.openai.tensors import Step
from trt_tokenizers.openai.triton import Model

CHAT: dict[str, Any] = {"model": "ensemble", "messages": [{"role": "user", "content": "Hi"}]}
SCHEMA = {
    "type": "object", "properties": {"도시": {"type": "string"}}, "required": ["도시"],
    "additionalProperties": False,
}  # fmt: skip
TAG = {"type": "structural_tag", "format": {"type": "any_text"}}
STRICT = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
JSON_SCHEMA = ("json_schema", json.dumps(SCHEMA, ensure_ascii=False))
FORMAT = {"type": "json_schema", "json_schema": SCHEMA}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


TOOLS = [tool("f", parameters=SCHEMA), tool("g")]
NAMED = {"type": "function", "function": {"name": "f"}}


def sent(triton: ScriptedTriton) -> tuple[str, str]:
    """The guide that the ensemble got."""
    (inputs,) = triton.asked
    kind = inputs.get("guided_decoding_guide_type", b"").decode()
    return kind, inputs.get("guided_decoding_guide", b"").decode()


def guide(body: dict[str, Any], template: str = "", prompt: str = "", **options: Any) -> Any:
    triton = ScriptedTriton(template=template, prompt=prompt)
    answer = ask(app(triton, **options), "/v1/chat/completions", {**CHAT, **body})
    assert answer.status == 200, answer.json
    return sent(triton)


def structure(*args: Any, **options: Any) -> Any:
    kind, text = guide(*args, **options)
    tag = json.loads(text)
    assert (kind, tag["type"]) == ("structural_tag", "structural_tag")
    return tag["format"]


FIELDS: list[tuple[dict[str, Any], tuple[str, str]]] = [
    ({}, ("", "")),
    ({"response_format": {"type": "text"}}, ("", "")),
    ({"response_format": {"type": "json_object"}}, ("json", "")),
    ({"response_format": STRICT}, JSON_SCHEMA),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
     JSON_SCHEMA),
    ({"structured_outputs": {"json": SCHEMA}}, JSON_SCHEMA),
    ({"structured_outputs": {"json": JSON_SCHEMA[1], "regex": None}}, JSON_SCHEMA),
    ({"structured_outputs": {"regex": "a+", "disable_any_whitespace": False}}, ("regex", "a+")),
    ({"structured_outputs": {"choice": ["a.b", "c"]}}, ("regex", r"a\.b|c")),
    ({"structured_outputs": {"grammar": 'root ::= "a"'}}, ("ebnf_grammar", 'root ::= "a"')),
    ({"structured_outputs": {"json_object": True}}, ("json", "")),
    ({"structured_outputs": {"structural_tag": TAG}}, ("structural_tag", json.dumps(TAG))),
    ({"structured_outputs": {"structural_tag": json.dumps(TAG)}},
     ("structural_tag", json.dumps(TAG))),
    ({"guided_json": SCHEMA}, JSON_SCHEMA),
    ({"guided_json": JSON_SCHEMA[1]}, JSON_SCHEMA),
    ({"guided_regex": "a+"}, ("regex", "a+")),
    ({"guided_choice": ["예", "아니요"]}, ("regex", "예|아니요")),
    ({"guided_grammar": "root ::= [a-z]"}, ("ebnf_grammar", "root ::= [a-z]")),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), FIELDS, ids=str)
def test_fields_of_chat_and_completions(fields: Any, expected: Any) -> None:
    assert guide(fields) == expected
    triton = ScriptedTriton()
    body = {"model": "ensemble", "prompt": "Hi", **fields}
    assert ask(app(triton), "/v1/completions", body).status == 200
    assert sent(triton) == expected


def test_an_object_has_no_properties_that_its_schema_does_not_declare() -> None:
    closed = {"additionalProperties": False}
    bare: dict[str, Any] = {"type": "object", "properties": {"a": {}}, "required": ["a"]}
    assert json.loads(guide({"guided_json": bare})[1]) == {**bare, **closed}
    body = {"tools": [tool("f", parameters=bare)], "tool_choice": "required"}
    made = structure(body, tool_parser="hermes", reasoning_parser="none")
    assert made["content"]["json_schema"] == {**bare, **closed}
    for more in (
        {"additionalProperties": True},
        {"allOf": []},
        {"required": ["b"]},
        {"required": 1},
    ):
        assert json.loads(guide({"guided_json": {**bare, **more}})[1]) == {**bare, **more}


def test_parts_of_a_schema_have_no_other_properties_either() -> None:
    shut = {"type": "object", "properties": {"a": {}}, "additionalProperties": False}
    bare = {"type": "object", "properties": {"a": {}}}

    def schema(part: Any, **more: Any) -> Any:
        return {
            "$defs": {"part": part},
            "properties": {
                "enum": part, "list": {"items": part},
                "maybe": {"anyOf": [part, {"type": "null"}, {"enum": [bare]}]},
                "map": {"additionalProperties": part}, "tuple": {"prefixItems": [part, True]},
            },
            **more,
        }  # fmt: skip

    closed = {"additionalProperties": False}
    assert json.loads(guide({"guided_json": schema(bare)})[1]) == schema(shut, **closed)
    for more in ({"allOf": [{"$ref": "#/$defs/part"}, bare]}, {"$ref": "#/$defs/part"}):
        assert json.loads(guide({"guided_json": schema(bare, **more)})[1]) == schema(bare, **more)


@pytest.mark.parametrize(
    "text",
    [
        "a.b*c?",
        "[x]{2}(y)|z^$+",
        "a/b\\c\\n",
        "line\nnext\ttab",
        "한국 👍🏽",
        "q\"uote's",
        "a-b#c&d~e f",
    ],
)
def test_a_choice_is_that_text_only(text: str) -> None:
    _, pattern = guide({"guided_choice": [text, "other"]})
    found = [each for each in (text, "other", "", f"{text}x") if re.fullmatch(pattern, each)]
    assert found == [text, "other"]


DEEP: Any = {}
for _ in range(5000):
    DEEP = {"items": DEEP}
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": "json"}, "response_format", "must be an object"),
    ({"response_format": {}}, "response_format", "must be text, json_object or json_schema"),
    ({"response_format": {"type": "xml"}}, "response_format", "must be text, json_object or"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "schema is missing"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}},
     "response_format", "schema is missing or no object"),
    ({"guided_json": {"const": "\ud800"}}, "guided_json", "half of a surrogate pair"),
    ({"guided_json": "{"}, "guided_json", "guided_json is not JSON"),
    ({"guided_json": "[" * 10**5}, "guided_json", "guided_json is not JSON"),
    ({"guided_json": "1"}, "guided_json", "must be a JSON schema"),
    ({"structured_outputs": {"json": 1}}, "structured_outputs", "structured_outputs.json must be"),
    ({"structured_outputs": {"regex": 1}}, "structured_outputs", "structured_outputs.regex must"),
    ({"structured_outputs": {"regexp": "a"}}, "structured_outputs", "did you mean 'regex'?"),
    ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs", "is not served"),
    ({"structured_outputs": {"json_object": 1}}, "structured_outputs", "must be true or false"),
    ({"structured_outputs": {"structural_tag": [1]}}, "structured_outputs", "must be a text"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "two guides"),
    ({"guided_choice": []}, "guided_choice", "at least one text"),
    ({"guided_choice": [1]}, "guided_choice", "at least one text"),
    ({"guided_regex": ""}, "guided_regex", "not empty"),
    ({"guided_regex": "\ud800"}, "guided_regex", "half of a surrogate pair"),
    ({"guided_regex": "a", "guided_json": {}}, "guided_regex", "guided_json and guided_regex are"),
    ({"response_format": STRICT, "guided_regex": "a"}, "guided_regex", "send one"),
    ({"response_format": STRICT, "tools": TOOLS, "tool_choice": "required"}, "response_format",
     "tool_choice and response_format are two guides"),
    ({"tool_choice": "required"}, "tool_choice", "tools is missing"),
    ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", "must be auto, none, required, or"),
    ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice", "must be auto"),
    ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "must be auto"),
    ({"tools": TOOLS, "tool_choice": tool("h")}, "tool_choice", "'h', which is not among"),
    ({"tools": [tool("a b")], "tool_choice": "required"}, "tools", "tools[0].function.name must"),
    ({"tools": [1], "tool_choice": "required"}, "tools", "tools[0].function.name must"),
    ({"tools": [tool("f", parameters=1)], "tool_choice": "required"}, "tools", "must be an object"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "message"), BAD, ids=lambda v: str(v)[:80])
def test_what_no_guide_can_be_made_of_is_a_400(fields: Any, param: str, message: str) -> None:
    triton = ScriptedTriton()
    answer = ask(app(triton, tool_parser="hermes"), "/v1/chat/completions", {**CHAT, **fields})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert message in answer.json["error"]["message"]
    assert triton.asked == []


def test_a_schema_that_is_nested_too_deeply() -> None:
    request = parse_chat({**CHAT, "guided_json": DEEP})
    assert request.guide
    with pytest.raises(ApiError, match="guided_json is nested too deeply"):
        _ = request.guide.inputs


def test_completions_have_no_tools_and_the_same_guides() -> None:
    request = parse_completion({"model": "m", "prompt": ["a", "b"], "guided_regex": "a"})
    assert request.guide is not None
    assert request.guide.kind == "regex"


# Calls


def call(form: Any, name: str, arguments: Any) -> str:
    return form.begin.replace("{name}", name) + json.dumps(arguments) + form.end


def test_the_parsers_that_can_demand_calls_are_those_that_are_documented() -> None:
    names = sorted(each.name for each in entry_points(group=TOOL_PARSERS))
    assert tuple(name for name in names if tool_format(name).calls) == JSON_CALLS


@pytest.mark.parametrize("name", JSON_CALLS)
def test_a_demanded_call_is_one_that_the_parser_reads(name: str) -> None:
    for form in tool_format(name).calls:
        parser = make_parser(name, "none", tools=TOOLS)
        found = parse(parser, [[Piece(call(form, "f", {"도시": "서울"}))]])
        assert [(n, json.loads(a), whole) for n, a, whole in found.calls] == [
            ("f", {"도시": "서울"}, True)
        ]
        assert not found.content


@pytest.mark.parametrize("name", [name for name in FORMS if FORMS[name].tool in JSON_CALLS])
def test_a_demanded_call_is_written_as_the_template_writes_it(name: str) -> None:
    family = FORMS[name]
    begin, end = family.around
    written = begin + family.call("f", {"a": 1}) + end
    assert written in [call(form, "f", {"a": 1}) for form in tool_format(family.tool).calls]


@pytest.mark.parametrize(
    ("parser", "template", "begin", "end"),
    [
        ("hermes", "", '<tool_call>\n{"name": "f", "arguments": ', "}\n</tool_call>"),
        ("llama3_json", "", '{"name": "f", "parameters": ', "}"),
        ("mistral", "[TOOL_CALLS]{{ name }}[ARGS]", "[TOOL_CALLS]f[ARGS]", ""),
        ("mistral", "[TOOL_CALLS] [", '[TOOL_CALLS] [{"name": "f", "arguments": ', "}]"),
        ("mistral", "[TOOL_CALLS][", '[TOOL_CALLS][{"name": "f", "arguments": ', "}]"),
        ("granite", "<|tool_call|>", '<|tool_call|>[{"name": "f", "arguments": ', "}]"),
        ("granite", "", '<tool_call>\n{"name": "f", "arguments": ', "}\n</tool_call>"),
        ("kimi", "<|tool_calls_section_begin|>",
         "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>",
         "<|tool_call_end|><|tool_calls_section_end|>"),
        ("deepseek_v3", "", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>",
         "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("deepseek_v3", "```json",
         "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n",
         "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("gpt_oss", "", "<|channel|>commentary to=functions.f <|constrain|>json<|message|>", ""),
    ],
)  # fmt: skip
def test_the_call_of_each_family(parser: str, template: str, begin: str, end: str) -> None:
    options = {"tool_parser": parser, "reasoning_parser": "none"}
    tag = {"type": "tag", "begin": begin, "content": FORMAT, "end": end}
    body = {"tools": TOOLS, "tool_choice": NAMED}
    assert structure(body, template, **options) == tag
    either = structure({"tools": TOOLS, "tool_choice": "required"}, template, **options)
    assert (either["type"], len(either["elements"]), either["elements"][0]) == ("or", 2, tag)
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    assert either["elements"][1]["content"]["json_schema"] == empty


@pytest.mark.parametrize("parser", ["qwen3_coder", "glm", "gemma", "pythonic", "kimi", "none"])
def test_a_family_without_json_is_refused_with_the_names_of_the_others(parser: str) -> None:
    template = "<|open|>"  # that of Kimi's newer form
    for choice in ("required", NAMED):
        triton = ScriptedTriton(template=template)
        body = {**CHAT, "tools": TOOLS, "tool_choice": choice}
        made = app(triton, tool_parser=parser, reasoning_parser="none")
        answer = ask(made, "/v1/chat/completions", body)
        assert (answer.status, answer.json["error"]["param"]) == (400, "tool_choice")
        assert ", ".join(JSON_CALLS) in answer.json["error"]["message"]
        body = {**CHAT, "tools": TOOLS, "response_format": STRICT}
        answer = ask(made, "/v1/chat/completions", body)
        assert (answer.status, answer.json["error"]["param"]) == (400, "tools")
        assert triton.asked == []


def test_an_answer_with_a_guide_may_still_be_a_call() -> None:
    body = {"tools": TOOLS[:1], "response_format": STRICT}
    made = structure(body, tool_parser="hermes")
    assert made["type"] == "or"
    assert made["elements"][0] == FORMAT
    assert made["elements"][1]["begin"].startswith("<tool_call>")
    assert guide({**body, "tool_choice": "none"}, tool_parser="hermes") == JSON_SCHEMA


STEPS = [
    Step(text='<tool_call>\n{"name": "f", "arguments": {"도시": "a"}}\n</tool_call>'),
    Step(0, "", "stop", 5, 2),
]


@pytest.mark.parametrize(
    ("choice", "steps", "finish"),
    [
        ("required", STEPS, "tool_calls"),
        (NAMED, STEPS, "stop"),
        ("required", [Step(0, '<tool_call>\n{"name": "f"', "length", 5, 2)], "length"),
        (NAMED, [Step(0, '<tool_call>\n{"name": "f"', "length", 5, 2)], "length"),
        ("required", [Step(0, "", "stop", 5, 2)], "stop"),
    ],
)
def test_finish_reasons(choice: Any, steps: Any, finish: str) -> None:
    body = {**CHAT, "tools": TOOLS, "tool_choice": choice}
    made = app(ScriptedTriton(steps), tool_parser="hermes")
    whole = ask(made, "/v1/chat/completions", body).json["choices"][0]
    events = ask(made, "/v1/chat/completions", {**body, "stream": True}).events
    assert whole["finish_reason"] == events[-1]["choices"][0]["finish_reason"] == finish
    assert len(whole["message"].get("tool_calls", ())) == (steps is STEPS)


# Reasoning

NEWLINES = {"type": "regex", "pattern": r"\n{0,2}"}


def sequence(*elements: Any) -> Any:
    return {"type": "sequence", "elements": [*elements]}


def thought(begin: str, end: str = "</think>") -> Any:
    return {"type": "tag", "begin": begin, "content": {"type": "any_text"}, "end": end}


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"response_format": STRICT}, FORMAT),
        ({"response_format": {"type": "json_object"}},
         {"type": "json_schema", "json_schema": {"type": "object"}}),
        ({"guided_regex": "a+"}, {"type": "regex", "pattern": "a+"}),
        ({"guided_grammar": "root ::= [a]"}, {"type": "grammar", "grammar": "root ::= [a]"}),
    ],
)  # fmt: skip
def test_reasoning_may_come_before_the_answer(fields: Any, content: Any) -> None:
    template = "{{ messages[-1].content }}</think>"
    optional = {"type": "or", "elements": [thought("<think>"), NEWLINES]}
    assert structure(fields, template, "<|im_start|>assistant\n") == sequence(
        optional, NEWLINES, content
    )
    # The prompt has begun it, or has ended it.
    begun = structure(fields, template, "<|im_start|>assistant\n<think>\n")
    assert begun == sequence(thought(""), NEWLINES, content)
    without = guide(fields, template, "<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert without == guide(fields, template, reasoning_parser="none")
    earlier = "<think>a</think>b<|im_end|>\n<|im_start|>assistant\n"
    assert structure(fields, template, earlier)["elements"][0] == optional
    assert guide(fields, template, reasoning_parser="none")[0] != "structural_tag"


def test_reasoning_may_come_before_a_forced_call() -> None:
    body = {"tools": TOOLS, "tool_choice": NAMED}
    options = {"tool_parser": "hermes", "reasoning_parser": "think"}
    optional, newlines, tag = structure(body, **options)["elements"]
    assert optional == {"type": "or", "elements": [thought("<think>"), NEWLINES]}
    assert newlines == NEWLINES
    assert tag["begin"].startswith("<tool_call>")


def test_gpt_oss_writes_messages() -> None:
    options = {"tool_parser": "gpt_oss", "reasoning_parser": "gpt_oss"}
    analysis = thought("<|channel|>analysis<|message|>", "<|end|><|start|>assistant")
    optional = {"type": "or", "elements": [analysis, NEWLINES]}
    final = {"type": "tag", "begin": "<|channel|>final<|message|>", "content": FORMAT, "end": ""}
    body = {"response_format": STRICT}
    assert structure(body, **options) == sequence(optional, NEWLINES, final)
    text = (
        '<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{"도'
    )
    found = parse(make_parser("none", "gpt_oss", prompt_end="<|start|>assistant"), [[Piece(text)]])
    assert (found.reasoning, found.content) == ("hm", '{"도')


def test_a_clients_structural_tag_is_the_whole_answer() -> None:
    fields = {"structured_outputs": {"structural_tag": TAG}, "tools": TOOLS}
    options = {"tool_parser": "hermes", "reasoning_parser": "think"}
    assert guide(fields, **options) == ("structural_tag", json.dumps(TAG))


# What the server cannot do

FORCED = {"tools": TOOLS, "tool_choice": "required"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"response_format": STRICT}, "response_format"), ({"guided_regex": "a"}, "guided_regex"),
     (FORCED, "tool_choice")],
)  # fmt: skip
def test_an_ensemble_that_refuses_or_lacks_guides(fields: Any, param: str) -> None:
    body = {**CHAT, **fields}
    inputs = {name: kind for name, kind in ENSEMBLE.inputs.items() if "guide" not in name}
    triton = ScriptedTriton(model=Model(inputs, ENSEMBLE.outputs))
    answer = ask(app(triton, tool_parser="hermes"), "/v1/chat/completions", body)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert "transformers, vllm or llmapi" in answer.json["error"]["message"]
    schemas = "tools" if fields is FORCED else param
    expected = {"guided_decoding_guide": schemas, "guided_decoding_guide_type": param}
    for name, field in expected.items():
        triton = ScriptedTriton([ApiError(400, f"{name} is wrong")])
        answer = ask(app(triton, tool_parser="hermes"), "/v1/chat/completions", body)
        assert (answer.status, answer.json["error"]["param"]) == (400, field)
        assert answer.json["error"]["message"] == f"{field} is wrong"
