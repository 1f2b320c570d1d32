"""Limits on messages, templates and prompts, and what the sandbox denies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conversations import talk
from trt_tokenizers.errors import RequestError, TemplateError
from trt_tokenizers.processing.prompts import PromptMaker, PromptSettings
from trt_tokenizers.processing.request import TextRequest
from trt_tokenizers.templates.messages import parse_messages, parse_template_arguments
from trt_tokenizers.templates.render import ChatTemplate, load, named_templates
from trt_tokenizers.tokenizers.registry import create

HI = [{"role": "user", "content": "hi"}]


def test_fifty_thousand_messages_are_rendered(bpe_dir: Path) -> None:
    settings = PromptSettings(str(bpe_dir))
    maker = PromptMaker(settings, create(settings))
    messages = talk(*(str(number) for number in range(50_000)))
    (prompt,) = maker.make(TextRequest(messages=[json.dumps(messages).encode()]))
    turns = (f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    assert prompt.text == "".join(turns) + "<|im_start|>assistant\n"


def test_a_template_may_read_the_number_of_messages_in_its_loop() -> None:
    """As Qwen 3's template does."""
    source = "{% for m in messages %}{{ loop.index0 == messages|length - 1 }},{% endfor %}"
    prompt = ChatTemplate("x", source).render(talk(*["word " * 100] * 300), {})
    assert prompt == "False," * 299 + "True,"


USER = '{"role": "user", "content": '
REFUSED_JSON = {
    "many": ("[" + ",".join([USER + '"x"}'] * 100_001) + "]",
             "messages has 100001 messages; the limit is 100000"),
    "long": (f'[{USER}"{"x" * 5_000_000}"' + "}]",
             "messages has 5000033 characters; the limit is 5000000"),
    "digits": (f'[{USER}"x", "y": ' + "9" * 5000 + "}]", "messages is not JSON: Exceeds the limit"),
    "role": ('[{"role": ' + "[" * 900 + "]" * 900 + ', "content": "x"}]',
             "has the role of type list"),
    "long role": ('[{"role": "' + "x" * 10**6 + '", "content": "x"}]', "has the role 'xxxx"),
    "surrogate": (f'[{USER}"\\ud800"' + "}]", "half of a surrogate pair"),
    "surrogate in a key": (f'[{USER}"x", "\\uDC00": 1' + "}]", "half of a surrogate pair"),
    "nested": ("[" * 1_000_000, "messages is nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_JSON)
def test_json_beyond_a_limit_is_refused(name: str) -> None:
    text, message = REFUSED_JSON[name]
    with pytest.raises(RequestError, match=message) as caught:
        parse_messages(text)
    assert len(str(caught.value).encode()) < 1000


@pytest.mark.parametrize("depth", [*range(800, 1000, 5), 5000])
def test_nested_json_is_rendered_or_refused(depth: int) -> None:
    """The parser and the encoder have different limits."""
    template = ChatTemplate("x", "{{ messages | tojson(ensure_ascii=true) }}")
    text = f'[{USER}"\\ud83d\\ude00", "y": ' + "[" * depth + "]" * depth + "}]"
    try:
        prompt = template.render(parse_messages(text), {})
    except RequestError as error:
        assert "nested too deeply" in str(error) or "recursion" in str(error)  # noqa: PT017
    else:
        assert prompt == text


def test_unusual_numbers_and_keys_are_as_json_loads_reads_them() -> None:
    messages = parse_messages("[" + USER + '"a", "content": "b", "n": NaN, "i": -Infinity}]')
    template = ChatTemplate("x", "{{ messages[0].content }} {{ messages[0].n }} {{ x }}")
    arguments = parse_template_arguments('{"x": -1e999}')
    assert template.render(messages, {}, arguments=arguments) == "b nan -inf"
    with pytest.raises(RequestError, match="chat_template_kwargs is not JSON: Exceeds the limit"):
        parse_template_arguments('{"x": ' + "9" * 5000 + "}")
    digits = parse_template_arguments('{"x": ' + "9" * 4300 + "}")
    with pytest.raises(RequestError, match="template 'x' fails"):
        ChatTemplate("x", "{{ x + x }}").render(HI, {}, arguments=digits)


@pytest.mark.parametrize(
    ("source", "message"),
    [("{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}", "does not compile"),
     ("x" * 65_537, "has 65537 characters; the limit is 65536"),
     ("{% if x %}" * 200 + "{% endif %}" * 200, "does not compile"),
     ("{{ 1 | nonesuch }}", "line 1: No filter named 'nonesuch'"),
     ("{{ " + "9" * 5000 + " }}", "does not compile"),
     ("{% if 1 %}" + "{% elif 1 %}" * 5000 + "{% endif %}", "does not compile")],
    ids=["parentheses", "length", "blocks", "filter", "digits", "branches"],
)  # fmt: skip
def test_a_template_that_does_not_compile_is_named(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=f"template 'x'.* ?{message}"):
        ChatTemplate("x", source)


def test_a_prompt_beyond_the_limit_is_refused() -> None:
    template = ChatTemplate("x", "{% for i in range(n) %}{{ messages[0].content }}{% endfor %}")
    word = [{"role": "user", "content": "x" * 1024}]
    assert len(template.render(word, {}, arguments={"n": 16_384})) == 16_777_216
    with pytest.raises(RequestError, match="a prompt of 16778240 characters; the limit is"):
        template.render(word, {}, arguments={"n": 16_385})


@pytest.mark.parametrize(
    ("source", "message"),
    [("{{ '\\ud800' }}", "fails"),
     ("{{ '%c' % 55296 }}", "fails"),
     ("{{ raise_exception('\\ud800') }}", r"refuses these messages: \\ud800"),
     ("{{ raise_exception('x' * 10000000) }}", "refuses these messages: x"),
     ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails .*recursion"),
     ("{{ 'x' * 10 ** 20 }}", "fails"),
     ("{{ range(100001) }}", "fails .*too big")],
)  # fmt: skip
def test_an_error_in_a_template_is_a_bad_request(source: str, message: str) -> None:
    """A lone surrogate would fail the other requests of the same batch."""
    with pytest.raises(RequestError, match=f"template 'x' {message}") as caught:
        ChatTemplate("x", source).render(HI, {})
    assert len(str(caught.value).encode()) < 1000


@pytest.mark.parametrize(
    "source",
    ["{{ messages.__class__.__mro__[1].__subclasses__() }}",
     "{{ (1).__class__.__base__ }}",
     "{{ raise_exception.__globals__['__builtins__'] }}",
     "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
     "{{ self._TemplateReference__context.environment.call }}",
     "{{ ''|attr('__class__')|attr('__base__')|attr('__subclasses__')() }}",
     "{{ '{0.__class__.__base__}'.format('').__x__.y }}",
     "{{ ''|map('format', '')|attr('gi_frame')|attr('f_back') }}",
     "{{ messages.append(1) }}",
     "{% include '/etc/passwd' %}",
     "{% import 'os' as os %}",
     "{% extends '/etc/passwd' %}"],
)  # fmt: skip
def test_the_sandbox_denies_internals_files_and_changes(source: str) -> None:
    messages = [*HI]
    with pytest.raises(RequestError, match="template 'x'"):
        ChatTemplate("x", source).render(messages, {})
    assert messages == HI


def test_an_internal_attribute_is_undefined() -> None:
    assert ChatTemplate("x", "{{ ''.__class__ }}").render(HI, {}) == ""


def test_a_message_is_not_rendered_as_a_template() -> None:
    source = "{{ 1 + 1 }}{% raw %}{{ messages.__class__ }}"
    for name in named_templates():
        template: Any = load(name, None)
        assert source in template.render([{"role": "user", "content": source}], {})
