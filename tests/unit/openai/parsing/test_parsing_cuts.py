"""However an answer is cut, its parts are the same, each once, and only whole calls have an end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answers import Folded, cut, parse, with_special
from families_written import FORMS
from trt_tokenizers.openai.parsing import AnswerParser, Piece, families, make_parser

STRING = {"type": "string"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {
                    "text": STRING,
                    "count": {"type": "integer"},
                    "size": {"type": ["number", "null"]},
                    "label": {"type": ["string", "null"]},
                    "on": {"type": "boolean"},
                    "tags": {"type": "array"},
                    "filter": {"type": "object"},
                },
            },
        },
    }
    for name in ("get_weather", "search-web")
]


OTHERS = {
    "llama3_json": ("llama3_json", "none", ['{"name": "get_weather", "parameters": {"a": 1}}',
                                            "<|python_tag|>", '{"name": "x"', "; "]),
    "pythonic": ("pythonic", "none", ["[get_weather(text='a\\'b', count=[1, {'a': None}]), ",
                                      "search(", "<|python_start|>", "<|python_end|>", ")]", "["]),
    "gpt_oss": ("gpt_oss", "gpt_oss", ["<|channel|>", "<|message|>", "<|end|>", "<|start|>",
                                       "<|call|>", "<|constrain|>json", "analysis", "final",
                                       "commentary to=functions.get_weather ", "assistant"]),
}  # fmt: skip
NAMES = [*FORMS, *OTHERS]


def parsers_of(name: str) -> tuple[str, str]:
    return (FORMS[name].tool, FORMS[name].reasoning) if name in FORMS else OTHERS[name][:2]


def tokens_of(name: str) -> tuple[str, ...]:
    tool, reasoning = parsers_of(name)
    by_name = {"none": "no_reasoning", "think": "think"}
    return (
        *getattr(families, tool)().tokens,
        *getattr(families, by_name.get(reasoning, f"{reasoning}_reasoning"))().tokens,
    )


def parser(name: str, prompt_end: str = "") -> AnswerParser:
    return make_parser(*parsers_of(name), tools=TOOLS, prompt_end=prompt_end)


SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=40).map(lambda sizes: sizes * 50)
TEXT = st.text(st.sampled_from(" \n\t\"\\'{}[]<>|a1é漢,:=()/-."), max_size=8)


@st.composite
def any_answer(draw: st.DrawFn, name: str) -> list[Piece]:
    """Markers, whole calls and text in any order, as text, special pieces or hidden tokens."""
    tokens = tokens_of(name)
    fragments = list(tokens) + [part[:-1] for part in tokens if len(part) > 1]
    fragments += ['{"name": ', '"get_weather", "arguments": {', '"text": "', '"}}', "<function=x>"]
    if name in FORMS:
        form = FORMS[name]
        fragments += [*form.think, *form.around]
        fragments += [form.call("get_weather", a) for a in ({}, {"text": "a", "count": 1})]
    else:
        fragments += OTHERS[name][2]
    pieces = []
    for text in draw(st.lists(st.one_of(st.sampled_from(fragments), TEXT), max_size=14)):
        kind = draw(st.integers(0, 3))
        if kind == 0 and text in tokens:
            pieces.append(Piece(text, special=True, hidden=draw(st.booleans())))
        elif kind == 1:
            pieces += with_special(text, tokens)
        elif kind == 2 and draw(st.booleans()):
            pieces.append(Piece("<|im_end|>", special=True, hidden=True))
        elif text:
            pieces.append(Piece(text))
    return pieces


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_any_answer_is_the_same_at_any_cut(name: str, data: st.DataObject) -> None:
    pieces = data.draw(any_answer(name))
    ended = data.draw(st.booleans())
    whole = parse(parser(name), [pieces], cut=ended)
    assert parse(parser(name), cut(pieces, repeat(1)), cut=ended) == whole
    assert parse(parser(name), cut(pieces, data.draw(SIZES)), cut=ended) == whole
    for _, arguments in whole.whole:
        assert isinstance(json.loads(arguments), dict)
    said = whole.content + whole.reasoning + "".join(n + a for n, a, _ in whole.calls)
    said.encode()  # has no lone surrogates
    assert "<|im_end|>" not in whole.content + whole.reasoning


WORDS = st.lists(
    st.sampled_from(["Hello", "x < y", "{", "a\nb", "é漢", "[1]", "</p>", "tool", "|"]),
    min_size=1, max_size=5,
).map(" ".join)  # fmt: skip
VALUE = {
    "text": st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    "count": st.integers(-10, 10**20),
    "size": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
    "label": st.one_of(st.none(), st.sampled_from(["nullable", "Non", "a label that is longer"])),
    "on": st.booleans(),
    "tags": st.lists(st.one_of(st.text("ab\"\\\n", max_size=4), st.integers()), max_size=3),
    "filter": st.dictionaries(st.sampled_from("abc"), st.booleans(), max_size=2),
}  # fmt: skip
ARGUMENTS = st.fixed_dictionaries({}, optional=VALUE)
CALLS = st.lists(st.tuples(st.sampled_from(["get_weather", "search-web"]), ARGUMENTS), max_size=3)


@dataclass
class Written:
    """An answer and what it says, with where each call ends in the text."""

    text: str
    content: str
    reasoning: str
    calls: list[tuple[str, dict, int]]


@st.composite
def right_answer(draw: st.DrawFn, name: str) -> Written:
    form = FORMS[name]
    reasoning = draw(st.one_of(st.just(""), WORDS))
    content = draw(st.one_of(st.just(""), WORDS))
    text = f"{form.think[0]}{reasoning}{form.think[1]}" if reasoning else ""
    text += content
    calls: list[tuple[str, dict, int]] = []
    for n, (tool, arguments) in enumerate(written := draw(CALLS)):
        text += form.around[0] if n == 0 else ""
        text += form.call(tool, arguments)
        calls.append((tool, arguments, len(text)))
    return Written(text + (form.around[1] if written else ""), content, reasoning, calls)


def check(folded: Folded, answer: Written, length: int, name: str) -> None:
    """What of *answer* is in its first *length* characters, is in *folded*, once."""
    tool = getattr(families, FORMS[name].tool)()
    # A marker that is cut, where it is not one token, is text.
    markers = [*tokens_of(name), *FORMS[name].think, *tool.opens]
    cut_markers = {marker[:n] for marker in markers for n in range(len(marker))}

    def said(found: str, meant: str) -> bool:
        return any(
            meant.startswith(found.removesuffix(part))
            for part in cut_markers
            if found.endswith(part)
        )

    assert said(folded.content, answer.content)
    assert said(folded.reasoning, answer.reasoning)
    assert len(folded.calls) <= len(answer.calls)
    for (tool, arguments, end), (found, text, whole) in zip(
        answer.calls, folded.calls, strict=False
    ):
        assert found == tool
        if whole:
            assert json.loads(text) == arguments
            assert end - length <= len(FORMS[name].spare), "the call was cut"
    assert len(folded.whole) >= sum(length >= end for _, _, end in answer.calls)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=10)
@given(data=st.data())
def test_a_right_answer_says_what_was_meant(name: str, special: bool, data: st.DataObject) -> None:
    answer = data.draw(right_answer(name))
    pieces = with_special(answer.text, tokens_of(name)) if special else [Piece(answer.text)]
    folded = parse(parser(name), cut(pieces, data.draw(SIZES)))
    assert folded.content == answer.content
    assert folded.reasoning == answer.reasoning
    assert [(n, json.loads(a)) for n, a in folded.whole] == [(n, a) for n, a, _ in answer.calls]
    assert len(folded.calls) == len(answer.calls)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=2)
@given(data=st.data())
def test_a_cut_loses_and_repeats_nothing(name: str, special: bool, data: st.DataObject) -> None:
    answer = data.draw(right_answer(name))
    tokens = tokens_of(name) if special else ("no token",)
    length = 0
    for (unit,) in cut(with_special(answer.text, tokens), repeat(1)):
        pieces = with_special(answer.text[:length], tokens)
        check(parse(parser(name), [pieces], cut=True), answer, length, name)
        length += len(unit.text)
