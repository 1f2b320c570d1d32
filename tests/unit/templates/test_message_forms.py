"""OpenAI's wire form of messages: the template gets the form that it reads.

tests/oracle/test_oracle_message_forms.py compares the makers' templates with transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from applicable import needs_oracle
from conversations import TOOL, called, talk
from trt_tokenizers.errors import RequestError
from trt_tokenizers.templates.messages import parse_messages
from trt_tokenizers.templates.render import ChatTemplate, load

ITEMS = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}({% for k, v in c.function.arguments | items %}{{ k }}={{ v }};"
    "{% endfor %}){% endfor %}{{ '\\n' }}{% endfor %}"
)
TEXT = ITEMS.replace("{% for k, v in c.function.arguments | items %}{{ k }}={{ v }};{% endfor %}",
                     "{{ 'args: ' + c.function.arguments }}")  # fmt: skip
CITY = {"city": "Łódź"}


def render(source: str, messages: Any, **arguments: Any) -> str:
    return ChatTemplate("t", source).render(
        parse_messages(json.dumps(messages)), {}, arguments=arguments
    )


@pytest.mark.parametrize("content", ["", None, ...])
@pytest.mark.parametrize(
    "arguments", [CITY, '{"city": "Łódź"}', ' {"city":"\\u0141\\u00f3d\\u017a"}']
)
@pytest.mark.parametrize(
    ("call", "written"),
    [("{{ c.function.arguments | tojson }}", '{"city": "Łódź"}'),
     ("{{ (c.function | tojson)[:-1] }}", '{"name": "weather", "arguments": {"city": "Łódź"}'),
     ("{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
      "{{ c.function.arguments | tojson }}{% endif %}", '{"city": "Łódź"}'),
     ("{% for k, v in c.function.arguments.items() %}{{ k }}: {{ v }}{% endfor %}", "city: Łódź"),
     ("{{ c.function.arguments.city }}", "Łódź")],
)  # fmt: skip
def test_arguments_are_an_object_for_templates_that_read_one(
    call: str, written: str, arguments: Any, content: Any
) -> None:
    source = f"{{% for m in messages %}}[{{{{ m['content'] }}}}]{{% for c in m.tool_calls %}}{call}"
    messages = called(arguments)
    messages[1]["content"] = content
    if content is ...:
        del messages[1]["content"]
    prompt = render(source + "{% endfor %}{% endfor %}", messages)
    assert prompt == f"[How is the weather?][]{written}[sunny, 20 °C]"


@pytest.mark.parametrize("only_none", [False, True])
def test_arguments_are_text_for_templates_that_read_text(only_none: bool) -> None:
    """DeepSeek R1's writes calls only if the content is none."""
    source = TEXT
    if only_none:
        source = source.replace("{{ m.content }}", "{{ m.content or '' }}").replace(
            "m.tool_calls or []", "m.tool_calls if m.content is none"
        )
    for arguments in ('{"city":"Łódź"}', {"city": "Łódź"}):
        for content in ("", None):
            messages = called(arguments)
            messages[1]["content"] = content
            expected = '{"city":"Łódź"}' if isinstance(arguments, str) else '{"city": "Łódź"}'
            assert f"assistant:weather(args: {expected})\n" in render(source, messages)


@pytest.mark.parametrize("nothing", ["", None, ..., {}, "{}", " { } "])
def test_a_call_without_arguments(nothing: Any) -> None:
    messages = called(nothing)
    if nothing is ...:
        del messages[1]["tool_calls"][0]["function"]["arguments"]
    assert "assistant:weather()\n" in render(ITEMS, messages)


@pytest.mark.parametrize("arguments", ["{", "[1]", "null", "x", '"{}"', "[" * 100_000])
def test_arguments_that_are_no_object_are_named(arguments: str) -> None:
    wrong = r"messages\[1\].tool_calls\[0\].function.arguments is not a JSON object"
    with pytest.raises(RequestError, match=wrong):
        render(ITEMS, called(arguments))
    assert f"weather(args: {arguments})" in render(TEXT, called(arguments))
    qwen = load("qwen", None)
    assert qwen is not None
    assert f'"arguments": {arguments}}}' in qwen.render(called(arguments), {}, tools=[TOOL])


@pytest.mark.parametrize(
    "calls", ["x", {"a": 1}, [1], [{}], [{"function": {}}], [{"function": "f"}], [{"name": 1}]]
)
def test_calls_of_another_shape_are_named(calls: Any) -> None:
    wrong = r'messages\[0\].tool_calls must be a list of {"type": "function", "function"'
    with pytest.raises(RequestError, match=wrong):
        parse_messages(json.dumps([{"role": "assistant", "content": "", "tool_calls": calls}]))


def test_a_call_beside_text_and_a_flat_call() -> None:
    messages = called('{"city": "x"}')
    messages[1]["content"] = "I look."
    assert "assistant:I look.weather(city=x;)\n" in render(ITEMS, messages)
    messages[1]["tool_calls"] = [messages[1]["tool_calls"][0]["function"]]
    source = ITEMS.replace("c.function", "c")
    assert "assistant:I look.weather(city=x;)\n" in render(source, messages)


def parts(*texts: str, **more: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text, **more} for text in texts]


LOOPS = (
    "{% for m in messages %}{{ m.role }}:{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '\\n' }}{% endfor %}"
)
STRINGS = "{% for m in messages %}{{ m.role + ':' + m.content }}\n{% endfor %}"
PRINTS = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
FIRST = "{% for m in messages %}{{ m.role + ':' + m.content[0]['text'] }}\n{% endfor %}"
DUMPS = "{% for m in messages %}{{ m.role }}:{{ (m.content | tojson)[1:-1] }}\n{% endfor %}"


@pytest.mark.parametrize("source", [LOOPS, STRINGS, PRINTS, FIRST, DUMPS])
def test_text_and_parts_give_the_same_prompt(source: str) -> None:
    texts = talk("one two", "three", "four", system="be terse")
    mixed = [{**m, "content": parts(m["content"])} if at % 2 else m for at, m in enumerate(texts)]
    several = [*texts[:-1], {"role": "user", "content": parts("fo", "ur")}]
    expected = "system:be terse\nuser:one two\nassistant:three\nuser:four\n"
    template = ChatTemplate("t", source)
    for messages in (texts, mixed, several, several[-1:], texts):
        prompt = template.render(messages, {})
        assert prompt == (expected if len(messages) > 1 else "user:four\n"), messages


def test_other_keys_of_a_part_reach_the_template() -> None:
    """As in TranslateGemma: users send one part with languages, the assistant sends text."""
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}{% if m.content is string or "
        "m.content | length != 1 %}{{ raise_exception('one part, please') }}{% endif %}"
        "{% set p = m.content[0] %}{{ p.source_lang_code }}>{{ p.text | trim }}|"
        "{% else %}{{ m.content.strip() }}|{% endif %}{% endfor %}"
    )
    german = {"role": "user", "content": parts("Hallo", source_lang_code="de")}
    answer = {"role": "assistant", "content": "Hello"}
    assert render(source, [german, answer, german]) == "de>Hallo|Hello|de>Hallo|"
    answer["content"] = parts("Hello")
    assert render(source, [german, answer, german]) == "de>Hallo|Hello|de>Hallo|"
    with pytest.raises(RequestError, match="refuses these messages: one part, please"):
        render(source.replace("p.source_lang_code", "raise_exception('one part, please')"),
               talk("Hallo"))  # fmt: skip


def test_an_empty_content_is_an_empty_text() -> None:
    for content in ("", []):
        assert render(PRINTS, [{"role": "user", "content": content}]) == "user:\n"
    assert render(PRINTS, [*talk("a"), {"role": "assistant"}]) == "user:a\nassistant:\n"


def test_keys_of_null_are_absent_as_with_transformers(bpe_dir: Path) -> None:
    """OpenAI's Python client writes them: message.model_dump()."""
    needs_oracle()
    from transformers import AutoTokenizer

    source = (
        "{% for m in messages %}{{ m.content }}{% for key in ('name', 'refusal', 'reasoning') %}"
        "{% if key in m or m[key] is defined %}<{{ m[key] }}>{% endif %}{% endfor %}{% endfor %}"
    )
    dumped = {"role": "assistant", "content": "b", "refusal": None, "name": None,
              "tool_calls": None, "audio": None, "reasoning": "r"}  # fmt: skip
    messages = [{**talk("a")[0], "name": None}, dumped]
    oracle = AutoTokenizer.from_pretrained(bpe_dir)
    expected = oracle.apply_chat_template(messages, chat_template=source, tokenize=False)
    assert render(source, messages) == expected == "ab<r>"


@pytest.mark.parametrize("source", [LOOPS, PRINTS])
def test_a_message_of_parts_is_continued(source: str) -> None:
    messages = [*talk("a"), {"role": "assistant", "content": parts("The ", "sky")}]
    prompt = render(source, messages, continue_final_message=True)
    assert prompt == "user:a\nassistant:The sky"


CONTROL = (
    "{% for m in messages %}{% if m.role == 'control' %}{% if m.content == 'thinking' %}<think>"
    "{% endif %}"
    "{% elif m.role in ('system', 'user') %}{{ m.role }}:{{ m.content }}{{ '\\n' }}{% endif %}"
    "{% endfor %}"
)


def test_roles_of_the_models_own_template() -> None:
    thinking = [{"role": "control", "content": "thinking"}, *talk("a")]
    assert render(CONTROL, thinking) == "<think>user:a\n"
    assert render(PRINTS, thinking) == "control:thinking\nuser:a\n", "it prints every role"
    with pytest.raises(RequestError) as dropped:
        render(CONTROL, [*talk("a"), {"role": "bot", "content": "b"}])
    assert str(dropped.value) == (
        "messages[1] has the role 'bot'; template 't' knows system, user: send one of these"
    )
    with pytest.raises(RequestError, match=r"messages\[0\] has the role 'asistant'; template 't'"):
        render(PRINTS, [{"role": "asistant", "content": "a mistake"}])
    with pytest.raises(RequestError, match=r"messages\[0\] has the role 'observation'"):
        render(CONTROL, [{"role": "observation", "content": "dropped"}, *talk("a")])
    refusing = "{% for m in messages %}{{ raise_exception('not ' ~ m.role) }}{% endfor %}"
    with pytest.raises(RequestError, match="refuses these messages: not control"):
        render(refusing, thinking)


@pytest.mark.parametrize(
    ("name", "known"),
    [("llama2", "system, user, assistant"), ("qwen", "system, user, assistant, tool"),
     ("chatml", "system, developer, user, assistant, tool")],
)  # fmt: skip
def test_a_named_template_names_its_roles(name: str, known: str) -> None:
    template = load(name, None)
    assert template is not None
    messages = [*talk("a", "b"), {"role": "control", "content": "thinking"}]
    with pytest.raises(RequestError) as refused:
        template.render(messages, {})
    assert str(refused.value) == (
        f"messages[2] has the role 'control'; template {name!r} knows {known}: send one of these"
    )


def test_one_client_does_not_decide_the_form_for_others() -> None:
    """A conversation that the template refuses leaves nothing behind."""
    template = ChatTemplate("t", "{% if messages | length > 1 %}{{ raise_exception('no') }}"
                            "{% endif %}" + LOOPS)  # fmt: skip
    for content in ("a", parts("a")):
        with pytest.raises(RequestError, match="refuses"):
            template.render([{"role": "user", "content": content}] * 2, {})
    assert template.render(talk("text"), {}) == "user:text\n"


def test_a_form_is_found_once() -> None:
    renders = 0

    class Counting(ChatTemplate):
        def _render(self, variables: dict[str, Any]) -> str:
            nonlocal renders
            renders += 1
            return super()._render(variables)

    template = Counting("t", LOOPS)
    for _ in range(5):
        template.render(talk("a"), {})
    assert renders == 5 + 2, "with text, then with a part"
