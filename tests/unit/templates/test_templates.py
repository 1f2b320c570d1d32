"""Templates compared with transformers' renderer and with expected prompts; checks of messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trt_tokenizers.errors import RequestError, TemplateError
from trt_tokenizers.templates.messages import parse_messages
from trt_tokenizers.templates.render import ChatTemplate, load, named_templates


def chat(*turns: str) -> list[dict[str, str]]:
    """("system: x", "user: y", …) as messages."""
    return [dict(zip(("role", "content"), t.split(": ", 1), strict=True)) for t in turns]


def render(name: str, *turns: str) -> str:
    template = load(name, None)
    assert template is not None
    return template.render(chat(*turns), {})


def test_llama2() -> None:
    assert render(
        "llama2", "system: Be terse.", "user: hi ", "assistant:  hello ", "user:  bye "
    ) == ("<s>[INST] <<SYS>>\nBe terse.\n<</SYS>>\n\nhi  [/INST] hello </s><s>[INST] bye [/INST]")
    assert render("llama2", "user: hi") == "<s>[INST] hi [/INST]"
    assert render("llama2", "system: s", "user: u") == "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\nu [/INST]"


@pytest.mark.parametrize(
    "turns",
    [("system: s",), ("assistant: a",), ("user: u", "user: v"), ("user: u", "system: s")],
)
def test_llama2_refuses_turns_out_of_order(turns: tuple[str, ...]) -> None:
    with pytest.raises(RequestError, match="'llama2' refuses these messages: "):
        render("llama2", *turns)


def test_chatml() -> None:
    assert render("chatml", "system: s", "user: u", "assistant: a", "user: {v}\n") == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n"
        "<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\n{v}\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


REAL = """{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}
{%- set messages = messages[1:] %}{%- endif %}
{{- bos_token }}
{% for message in messages %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
    {{- '<|' ~ message['role'] ~ '|>\\n' ~ message['content'] ~ eos_token }}
    {%- if not loop.last %}{{ {"a": "é<"} | tojson }}{% endif %}
{% endfor %}
{% generation %}{{ system | default('none') }}{% endgeneration %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}
"""


def test_a_models_own_template_renders_as_in_transformers(bpe_dir: Path) -> None:
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(bpe_dir)
    tokens = {"bos_token": oracle.bos_token, "eos_token": oracle.eos_token}
    for source in (REAL.replace("{% generation %}", "").replace("{% endgeneration %}", ""),
                   oracle.chat_template):  # fmt: skip
        for turns in (("user: hi",), ("system:  s ", "user: u", "assistant: a", "user: <&> é\n")):
            expected = oracle.apply_chat_template(
                chat(*turns), chat_template=source, tokenize=False, add_generation_prompt=True
            )
            assert ChatTemplate("x", source).render(chat(*turns), tokens) == expected


def test_names() -> None:
    assert {"llama2", "chatml"} <= set(named_templates())
    assert load("none", "x") is None
    assert load("auto", None) is None
    with pytest.raises(TemplateError, match=r"unknown template 'lama2' \(did you mean 'llama2'"):
        load("lama2", None)
    with pytest.raises(TemplateError, match="'auto', line 2: "):
        load("auto", "\n{% if %}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "messages is not JSON"),
        ("hello", "messages is not JSON"),
        ("[" * 100_000, "messages is nested too deeply"),
        ("{}", "must be a JSON list"),
        ("[]", "must be a JSON list"),
        ("[1]", r"messages\[0\] must be an object"),
        ('[{"content": "x"}]', r"messages\[0\] has no role"),
        ('[{"role": "user"}]', r"messages\[0\] has no content"),
        ('[{"role": "user", "content": 1}]', r"messages\[0\] has no content"),
        ('[{"role": ""}]', r"messages\[0\] has the role ''; it must be one of system, developer"),
        ('[{"role": "user", "content": "\\ud800"}]', "half of a surrogate pair"),
        ('[{"role": "user", "content": [{"type": "image"}]}]', r"messages\[0\].content\[0\] must"),
    ],
)  # fmt: skip
def test_bad_messages_are_named(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_messages(text)


CALLS = [{"type": "function", "function": {"name": "f", "arguments": {}}}]


@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
def test_only_the_assistant_calls_tools(role: str) -> None:
    """A template would write the call into another role's turn, or drop it."""
    message = {"role": role, "content": "a", "tool_calls": CALLS}
    wrong = rf"messages\[1\] has tool_calls and the role '{role}'; only the assistant calls tools"
    with pytest.raises(RequestError, match=wrong):
        parse_messages(json.dumps([{"role": "user", "content": "a"}, message]))
    for empty in (None, []):
        parsed = parse_messages(json.dumps([{**message, "tool_calls": empty}]))
        assert parsed == [{"role": role, "content": "a"}]


def test_the_assistants_tool_calls_reach_the_template() -> None:
    for calls in (CALLS, []):
        message = {"role": "assistant", "content": "a", "tool_calls": calls}
        assert parse_messages(json.dumps([message])) == [message]
    nothing = [{"role": "assistant", "content": "a", "tool_calls": None}]
    assert parse_messages(json.dumps(nothing)) == [{"role": "assistant", "content": "a"}]


def test_content_parts_and_other_keys_are_kept() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a", "k": 1}], "name": "n"}]
    assert parse_messages(json.dumps(messages)) == messages
