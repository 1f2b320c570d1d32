"""What single answers mean, where the laws of every cut do not say it."""

from __future__ import annotations

import json
import re

import pytest

from answers import Folded, parse, with_special
from families_written import FORMS
from trt_tokenizers.openai.parsing import (
    Content,
    Piece,
    Reasoning,
    ToolArguments,
    ToolCall,
    make_parser,
)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {
                    "s": {"type": "string"},
                    "i": {"type": "integer"},
                    "n": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                    "m": {"type": ["string", "null"]},
                    "b": {"type": "boolean"},
                    "o": {"type": "object"},
                    "e": {"enum": ["1", "2"]},
                },
            },
        },
    }
]
HERMES = '<tool_call>\n{"name": "f", "arguments": {"s": "x"}}\n</tool_call>'


def read(
    tool: str,
    answer: str | list[Piece],
    *,
    reasoning: str = "none",
    prompt_end: str = "",
    cut: bool = False,
    tools: list[dict] | None = TOOLS,
) -> Folded:
    pieces = [Piece(answer)] if isinstance(answer, str) else answer
    parser = make_parser(tool, reasoning, tools=tools, prompt_end=prompt_end)
    return parse(parser, [pieces], cut=cut)


def test_none_says_the_text_as_it_is() -> None:
    text = f" \n<think>a</think>\n{HERMES} \n"
    assert read("none", text) == Folded(text)


def test_calls_are_not_looked_for_without_tools() -> None:
    assert read("hermes", HERMES, tools=None) == Folded(HERMES)


def test_text_without_calls_keeps_its_white_space() -> None:
    assert read("hermes", " \n a \n") == Folded(" \n a \n")


def test_white_space_beside_calls_is_markup_unless_content_follows() -> None:
    assert read("hermes", f"a \n{HERMES}\n{HERMES}\n").content == "a"
    assert read("hermes", f"a \n{HERMES}\nb").content == "a \n\nb"
    assert read("kimi", "a <|tool_calls_section_begin|><|tool_calls_section_end|>").content == "a "


@pytest.mark.parametrize(
    ("prompt_end", "inside"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\nFirst", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        ("[INST]<think>[/INST]", False),
        ("<start_of_turn>user <think><end_of_turn>", False),
        ("", False),
    ],
)
def test_the_prompt_says_whether_an_answer_begins_in_reasoning(
    prompt_end: str, inside: bool
) -> None:
    folded = read("none", "a</think>b", reasoning="think", prompt_end=prompt_end)
    assert folded == (Folded("b", "a") if inside else Folded("ab"))


@pytest.mark.parametrize("name", sorted(FORMS.keys() - {"glm", "mistral"}))
def test_a_call_in_reasoning_ends_it_and_a_marker_alone_does_not(name: str) -> None:
    form = FORMS[name]
    call = form.around[0] + form.call("f", {"s": "x"}) + form.around[1]
    marker = re.match(r"<[^>]*>", call)[0]
    said = f"I use {marker} now."
    folded = read(form.tool, f"{form.think[0]}{said}{call}", reasoning=form.reasoning)
    assert folded == Folded("", said, folded.calls)
    assert [(n, json.loads(a)) for n, a in folded.whole] == [("f", {"s": "x"})]


def test_a_marker_in_ordinary_text_is_text_once_the_tokenizer_has_it_as_a_token() -> None:
    tokens = ("<tool_call>", "</tool_call>")
    pieces = [*with_special(HERMES, tokens), Piece(" The tag is <tool_call>, closed </tool_call>.")]
    folded = read("hermes", pieces)
    assert folded.content == "The tag is <tool_call>, closed </tool_call>."
    assert folded.whole == [("f", '{"s": "x"}')]


def test_hidden_tokens_are_not_said_but_markers_count() -> None:
    end = Piece("<|im_end|>", special=True, hidden=True)
    assert read("hermes", [Piece("a"), end, Piece("b"), end]) == Folded("ab")
    pieces = [
        Piece(p.text, p.special, p.special)
        for p in with_special("[TOOL_CALLS]f[ARGS]{}", ("[TOOL_CALLS]", "[ARGS]"))
    ]
    assert read("mistral", [*pieces, end]).whole == [("f", "{}")]


def test_the_end_token_is_no_part_of_a_cut_argument() -> None:
    end = Piece("<|im_end|>", special=True, hidden=True)
    pieces = [Piece('<tool_call>{"name": "f", "arguments": {"s": "a'), end]
    assert read("hermes", pieces).calls == [("f", '{"s": "a', False)]
    text = Piece('b"}}</tool_call>')
    assert read("hermes", [*pieces, text]).whole == [("f", '{"s": "a<|im_end|>b"}')]


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"arguments": {"s": "f"}, "name": "f"}', {"s": "f"}),
        ('{"id": 7, "name": "f", "parameters": {}}', {}),
        ('{"name": "f"}', {}),
        ('{"name": "f", "arguments": null}', {}),
        ('{"name": "f", "arguments": "{\\"s\\": \\"x\\"}"}', {"s": "x"}),
        ('{"name": "f", "arguments": {"s": "two\nlines\t"}}', {"s": "two\nlines\t"}),
        ('[{"name": "f", "arguments": {"i": 1}}]', {"i": 1}),
    ],
)
def test_forms_of_json_calls(body: str, arguments: dict) -> None:
    folded = read("hermes", f"<tool_call>{body}</tool_call>")
    assert [(n, json.loads(a)) for n, a in folded.whole] == [("f", arguments)]
    assert not folded.content


@pytest.mark.parametrize(
    "arguments",
    ['{"s": NaN}', "{'s': 1}", '{"s": 1', '{"s": [1}', "7", '"text"', '{"i": 1e}', "[" * 10**5],
)
def test_a_call_whose_arguments_are_no_json_object_is_not_whole(arguments: str) -> None:
    text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    assert not read("hermes", text).whole
    assert read("hermes", f"{text}{HERMES}").whole[-1:] in ([("f", '{"s": "x"}')], [])


def test_a_malformed_call_does_not_hurt_its_neighbours() -> None:
    bad = '<tool_call>{"name": "f", "arguments": {"i": 1;}}</tool_call>'
    assert read("hermes", f"a{bad}{HERMES}").whole == [("f", '{"s": "x"}')]
    folded = read("hermes", f"<tool_call>no JSON</tool_call>{HERMES}")
    assert folded.whole == [("f", '{"s": "x"}')]
    assert folded.content == "<tool_call>no JSON</tool_call>"


def test_a_whole_call_before_a_cut_one_is_kept() -> None:
    folded = read("hermes", f'{HERMES}\n<tool_call>\n{{"name": "f", "arg', cut=True)
    assert folded == Folded("", "", [("f", '{"s": "x"}', True)])


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("s", "1", "1"),
        ("s", "true", "true"),
        ("s", '{"a": 1}', '{"a": 1}'),
        ("s", " a\n", " a\n"),
        ("i", "7", 7),
        ("i", "7.0", 7.0),
        ("i", "seven", "seven"),
        ("n", "1e20", 1e20),
        ("n", "None", None),
        ("m", "null", None),
        ("m", "nothing more", "nothing more"),
        ("m", "3", "3"),
        ("b", "True", True),
        ("o", '{"a": [1, "<b>"]}', {"a": [1, "<b>"]}),
        ("o", "{a}", "{a}"),
        ("e", "1", "1"),
        ("other", "007", "007"),
        ("other", "[1]", [1]),
        ("other", '"x"', "x"),
    ],
)
def test_values_have_the_types_of_the_schema(key: str, value: str, meant: object) -> None:
    qwen = f"<tool_call>\n<function=f>\n<parameter={key}>\n{value}\n</parameter>\n</function>"
    glm = f"<tool_call>f<arg_key>{key}</arg_key><arg_value>{value}</arg_value></tool_call>"
    for tool, text in (("qwen3_coder", f"{qwen}\n</tool_call>"), ("glm", glm)):
        ((_, arguments),) = read(tool, text).whole
        found = json.loads(arguments)[key]
        assert found == meant
        assert type(found) is type(meant)


def test_an_answer_in_json_is_no_call() -> None:
    for text in (
        '{"name": "Bob", "arguments": {}}',
        '{"name": "f"}',
        '{"capital": "Paris',
        "[f",
        "[1, 2]",
        "[g(a=1)]",
    ):
        for tool in ("llama3_json", "pythonic"):
            assert read(tool, text) == Folded(text)
            assert read(tool, text, cut=True) == Folded(text)
    two = '{"name": "f", "parameters": {}}; {"name": "f", "parameters": {"i": 1}}'
    assert read("llama3_json", two).whole == [("f", "{}"), ("f", '{"i": 1}')]


def test_gpt_oss_reads_a_prefilled_message() -> None:
    prompt_end = "<|end|><|start|>assistant<|channel|>analysis<|message|>I th"
    text = "ink.<|end|><|start|>assistant<|channel|>final<|message|>Yes"
    folded = read("gpt_oss", text, reasoning="gpt_oss", prompt_end=prompt_end)
    assert folded == Folded("Yes", "ink.")


def test_gpt_oss_channels_are_no_content_without_tools() -> None:
    text = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b"
    assert read("none", text, reasoning="gpt_oss", tools=None) == Folded("b", "a")
    assert read("gpt_oss", text) == Folded("ab")


@pytest.mark.parametrize("name", sorted(FORMS))
def test_arguments_come_with_the_tokens(name: str) -> None:
    """A text of many tokens is not held until the call ends, and each step makes few events."""
    form = FORMS[name]
    text = form.around[0] + form.call("f", {"s": "word " * 40})
    parser = make_parser(form.tool, form.reasoning, tools=TOOLS)
    start = text.index("word")
    assert [type(e) for e in parser.feed([Piece(text[: start + 8])])][:1] == [ToolCall]
    for at in range(start + 8, start + 160, 8):
        (event,) = parser.feed([Piece(text[at : at + 8])])
        assert event == ToolArguments(0, text[at : at + 8])


def test_a_text_that_may_be_null_is_held_only_while_it_may_be() -> None:
    parser = make_parser("qwen3_coder", "none", tools=TOOLS)
    parser.feed([Piece("<function=f>\n<parameter=m>\n")])
    assert parser.feed([Piece("null")]) == []
    assert parser.feed([Piece("ified")]) == [ToolArguments(0, '{"m": "nullified')]


def test_content_comes_with_the_tokens() -> None:
    parser = make_parser("hermes", "think", tools=TOOLS)
    assert parser.feed([Piece("<think>")]) == []
    assert parser.feed([Piece("Hm,")]) == [Reasoning("Hm,")]
    assert parser.feed([Piece(" a < b </th")]) == [Reasoning(" a < b")]
    assert parser.feed([Piece("ink>\n\nHello")]) == [Content("Hello")]
    assert parser.feed([Piece(" "), Piece("<"), Piece("tool")]) == []
    assert parser.feed([Piece("s> are")]) == [Content(" <tools> are")]


def test_tokens_of_a_marker_that_is_cut_are_not_said() -> None:
    pieces = [Piece("a <"), Piece("｜DSML｜", special=True)]
    assert read("deepseek_v32", pieces, cut=True) == Folded("a ")
    assert read("deepseek_v32", [*pieces, Piece("b")]) == Folded("a <｜DSML｜b")


@pytest.mark.parametrize(
    ("tool", "text"),
    [
        ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=s>\nthe tag </function>"),
        ("glm", "<tool_call>f<arg_key>s</arg_key><arg_value>the tag </tool_call>"),
        ("gpt_oss", '<|channel|>commentary to=functions.f<|message|>{"s": "the tag "}'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "the tag "}}</tool'),
        ("gemma", '<|tool_call>call:f{s:<|"|>the tag <|"|>}'),
    ],
)
def test_a_call_without_its_end_is_whole_only_if_the_model_ended_there(
    tool: str, text: str
) -> None:
    assert [name for name, _, whole in read(tool, text, cut=True).calls if not whole] == ["f"]
    ((_, arguments),) = read(tool, text).whole
    assert json.loads(arguments)["s"].strip() == "the tag"


def test_a_python_call_that_is_cut_in_an_escape() -> None:
    assert read("pythonic", "[f(s='a\\", cut=True) == Folded("", "", [("f", "", False)])


def test_a_schema_of_any_depth_is_read() -> None:
    schema: dict = {"type": "integer"}
    for _ in range(10**5):
        schema = {"anyOf": [schema]}
    tools = [{"function": {"name": "f", "parameters": {"properties": {"i": schema}}}}]
    text = "<tool_call>f<arg_key>i</arg_key><arg_value>7</arg_value></tool_call>"
    assert read("glm", text, tools=tools).whole == [("f", '{"i": 7}')]
