"""The environment of templates compared with transformers', on templates of hypothesis."""

from __future__ import annotations

import json
from datetime import datetime as real_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils import chat_template_utils

from trt_tokenizers.errors import RequestError, TemplateError
from trt_tokenizers.templates import sandbox
from trt_tokenizers.templates.render import ChatTemplate

INDENT = st.sampled_from(["none", "0", "2", "true", "'\\t'", "'--'"])
BOOL = st.sampled_from(["true", "false"])
SEPARATORS = st.sampled_from(["none", "(',', ':')", "[', ', ' = ']"])
VALUE = st.sampled_from([
    "messages", "messages[0]", "message", "message.content", "tools", "x", "documents", "'é<&>'",
    "{'b': [1, 2.5, none], 'a': true}", "loop.index", "messages | length", "undefined_name", "[]",
    "messages | map(attribute='role') | list", "messages | selectattr('role', 'equalto', 'user') "
    "| list", "tools | sum(attribute='function.size')", "messages[-1:]", "x | default('d')",
])  # fmt: skip


@st.composite
def tojson(draw: st.DrawFn) -> str:
    options = {
        "ensure_ascii": BOOL, "indent": INDENT, "separators": SEPARATORS, "sort_keys": BOOL,
    }  # fmt: skip
    named = [f"{n}={draw(of)}" for n, of in options.items() if draw(st.booleans())]
    if draw(st.integers(0, 4)) == 0:
        named = [draw(of) for of in options.values()]
    return f"{draw(VALUE)} | tojson({', '.join(named)})"


EXPRESSION = st.one_of(
    VALUE,
    tojson(),
    st.sampled_from([
        "strftime_now('%d %b %Y')", "strftime_now('%Y-%m-%d %H:%M') | replace('-', '/')",
        "message.role ~ ': ' ~ message.content | trim", "message['content'].strip() + bos_token",
        "'%s|%d' % (message.role, 3)", "'{}-{}'.format(bos_token, 1)", "namespace(n=1).n",
        "message.content.split(' ')[0] | upper", "add_generation_prompt", "none", "1 / 3", "ns.n",
        "documents is none", "documents is defined", "tools is none", "dict(a=1) | tojson",
        "message.content[1:] if message.content else 'empty'", "(messages | last).role == 'user'",
    ]),
)  # fmt: skip
DASH = st.sampled_from(["", "-", "+"])
TEXT = st.sampled_from(["", " ", "\n", "a", "  b\n", "\n\n  ", "<|x|>\n", "é", "\t\n "])


@st.composite
def block(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    def tag(words: str) -> str:
        return f"{{%{draw(DASH)} {words} {draw(st.sampled_from(['', '-']))}%}}"

    body = draw(inner)
    kind = draw(st.sampled_from(["for", "if", "generation", "macro", "call", "filter"]))
    if kind == "for":
        leave = draw(st.sampled_from(["", "break", "continue"]))
        if leave:
            early = f"{tag('if loop.index0 == 1')}{tag(leave)}{tag('endif')}"
            body = early + body if draw(st.booleans()) else body + early
        end = f"{tag('else')}nothing" if draw(st.booleans()) else ""
        return f"{tag('for message in messages')}{body}{end}{tag('endfor')}"
    if kind == "if":
        condition = draw(st.sampled_from(["x", "messages[0].role == 'user'", "not tools", "y"]))
        return f"{tag(f'if {condition}')}{body}{tag('else')}{draw(TEXT)}{tag('endif')}"
    if kind == "macro":
        return f"{tag('macro m(y)')}{body}{tag('endmacro')}{{{{ m(x) }}}}"
    if kind == "call":
        return (f"{tag('macro c()')}[{{{{ caller() }}}}]{tag('endmacro')}"
                f"{tag('call c()')}{body}{tag('endcall')}")  # fmt: skip
    if kind == "filter":
        return f"{tag('filter upper')}{body}{tag('endfilter')}"
    return f"{tag('generation')}{body}{tag('endgeneration')}"


SET = st.sampled_from([
    "{% set x = 7 %}", "{% set ns.n = ns.n + 1 %}", "{% set x, y = 1, 'two' %}", "{# c #}\n",
    "{% set x %} block {% endset %}",
])  # fmt: skip
OUTPUT = st.builds(
    "{{{}{}{}}}".format, st.sampled_from(["{ ", "{- "]), EXPRESSION, st.sampled_from([" }", " -}"])
)
PIECES = st.recursive(
    st.one_of(OUTPUT, TEXT, SET),
    lambda inner: block(st.lists(inner, max_size=4).map("".join)),
    max_leaves=14,
)
TEMPLATE = st.lists(PIECES, min_size=1, max_size=4).map(
    lambda pieces: "{% set ns = namespace(n=0) %}" + "".join(pieces)
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]),
         "content": st.sampled_from(["", "hi", " a  b ", "é\n<b>\"'\u2028", "😀 word"])}
    ),
    min_size=1, max_size=4,
)  # fmt: skip
TOOLS = st.sampled_from([None, [{"function": {"name": "f", "size": 3}}] * 2])


class _Clock(real_datetime):
    @classmethod
    def now(cls, tz: Any = None) -> _Clock:
        return cls(2024, 2, 9, 7, 5)


@pytest.fixture(autouse=True, scope="module")
def _one_time() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for module in (sandbox, chat_template_utils):
            patch.setattr(module, "datetime", _Clock)
        yield


def reference(source: str, messages: Any, tools: Any = None, **more: Any) -> str:
    (text,), _ = chat_template_utils.render_jinja_template(
        conversations=[messages], tools=tools, chat_template=source, **more
    )
    return str(text)


@settings(max_examples=200)
@given(source=TEMPLATE, messages=MESSAGES, tools=TOOLS, x=st.sampled_from([0, "é", [1], {"k": 2}]))
def test_any_template(source: str, messages: Any, tools: Any, x: Any) -> None:
    arguments = {"x": x, "add_generation_prompt": False}
    try:
        expected: str | None = reference(source, messages, tools, bos_token="<s>", **arguments)
    except Exception:  # a template that does not compile or fails
        expected = None
    try:
        template = ChatTemplate("t", source)
        template.reads = {"tools", "tool_calls"}
        ours: str | None = template.render(
            messages, {"bos_token": "<s>"}, tools=tools, arguments=arguments
        )
    except (RequestError, TemplateError):
        ours = None
    # We accept every template that transformers accepts, and a break inside {% generation %}.
    assert expected is None or ours == expected, source


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content CUT }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("cut", ["", "| trim", "| upper", "| tojson"])
@pytest.mark.parametrize("content", ["The end", "end", "im_", " a ", "|>\n", "<|im_end|>", "é \n"])
def test_continue_final_message(cut: str, content: str) -> None:
    """The last message may repeat text that the template writes after it."""
    source = CHATML.replace("CUT", cut)
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
    try:
        expected = reference(source, messages, continue_final_message=True)
    except ValueError:
        with pytest.raises(RequestError, match="changes the last message"):
            ChatTemplate("t", source).render(
                messages, {}, arguments={"continue_final_message": True}
            )
        return
    ours = ChatTemplate("t", source).render(
        messages, {}, arguments={"continue_final_message": True}
    )
    assert ours == expected, json.dumps(ours)
