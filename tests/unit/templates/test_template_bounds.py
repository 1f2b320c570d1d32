# ruff: noqa: E501 - one attack, one line
"""Hostile templates and hostile messages end within a second, and nothing leads out."""

from __future__ import annotations

import contextlib
import json
import time

import jinja2
import pytest

from trt_tokenizers.errors import RequestError, TemplateError
from trt_tokenizers.templates.messages import parse_messages, parse_template_arguments
from trt_tokenizers.templates.render import ChatTemplate, load, named_templates

HI = [{"role": "user", "content": "hi"}]

HOSTILE = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
    "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{{ 'x' * 10000000000 }}",
    "{{ 10000000000 * 'x' }}",
    "{{ [0] * 10000000000 }}",
    "{{ 9 ** 9999999 }}",
    "{% set ns = namespace(x=7) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
    "{{ ns.x }}",
    "{% set ns = namespace(x={}) %}{% for i in range(99) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}"
    "{% endfor %}{{ ns.x | tojson }}",
    "{% set ns = namespace(x=1) %}{% for i in range(99) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}"
    "{% endfor %}{{ ns.x | string }}",
    "{{ 'x'.ljust(10000000000) }}",
    "{{ 'x' | center(10000000000) }}",
    "{{ 'x\n\n' | indent(10000000000) }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ '%*d' % (10000000000, 1) }}",
    "{{ '{:10000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10000000000) }}",
    "{{ '%10000000000d' | format(1) }}",
    "{% set a = 'x' * 100000 %}{{ a.replace('x', a).replace('x', a) }}",
    "{% set a = 'x' * 100000 %}{{ a | replace('x', a) | replace('x', a) }}",
    "{% set a = 'x' * 1000000 %}{{ a.join(range(99999)) }}",
    "{% set a = 'x' * 1000000 %}{{ range(99999) | join(a) }}",
    "{% set a = 'x' * 1000000 %}{{ ('{0}' * 99999).format(a) }}",
    "{% set a = 'x' * 1000000 %}{{ ('%s' * 99999) % (a,) }}",
    "{% set a = 'x' * 16000000 %}{% for i in range(99999) %}{{ a }}{% endfor %}",
    "{% set a = 'x' * 16000000 %}{% macro f() %}{% for i in range(99999) %}{{ a }}{% endfor %}"
    "{% endmacro %}{{ f() | length }}",
    "{{ range(99999) | map('center', 9999999) | list | length }}",
    "{{ 'x\t'.expandtabs(10000000000) }}",
    "{{ ('x' * 99999).translate({120: 'x' * 9999999}) }}",
    "{{ [] | batch(10000000000, 'x') | list }}",
    "{{ {'a': [1]} | tojson(indent=1000000000) }}",
    "{% set ns = namespace(x=[]) %}{{ range(99999) | sum(start=[]) }}",
    "{{ lipsum(n=10000000) }}",
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ raise_exception.__globals__['__builtins__'] }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self._TemplateReference__context.environment.call }}",
    "{{ ''|attr('__class__')|attr('__base__')|attr('__subclasses__')() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends '/etc/passwd' %}",
    "{{ '{0.__class__.__base__}'.format('').__x__.y }}",
    "{{ (1).to_bytes(10**9, 'big') }}",
    "{{ ('a' * 16000000) | sort }}",
    "{{ cycler() }}",
    "{{ 'a' | truncate(3, end='b' * 9999) }}",
    "{% set a = 'x' * 16000000 %}" + "{% set b = a[1:] %}" * 99,
    "{% set a = 'x' * 16000000 %}{% set b = [" + "a[1:]," * 200 + "] %}",
]


#: Work of C code within one expression, and within the compiler.
IN_ONE_EXPRESSION = [
    "{% set a = 'a' * 2000000 %}{{ a.rfind('ab' + 'a' * 1000000) }}",
    "{% set a = 'a' * 2000000 %}{{ a.rsplit('ab' + 'a' * 1000000) | length }}",
    "{% set a = 'a' * 2000000 %}{{ a.rsplit(sep='ab' + 'a' * 1000000) | length }}",
    "{% set a = 'a' * 4000000 %}{{ a.strip('b' * 4000000 + 'a') | length }}",
    "{% set a = 'a' * 4000000 %}{{ a | trim('b' * 4000000 + 'a') | length }}",
    "{{ 1.5 | round(100000000, 'ceil') }}",
    "{{ 1 | round(-100000000) }}",
    "{{ 1 | round(-10000000) }}",
    "{% set o = namespace(x=1) %}{% for i in range(40) %}{% set o.x = namespace(a=o.x, b=o.x) %}{% endfor %}{{ o.x }}",
    "{% set o = namespace(x=1) %}{% for i in range(40) %}{% set o.x = {'a': o.x, 'b': o.x}.values() %}{% endfor %}{{ o.x }}",
    "{% set o = namespace() %}{% set o.x = o %}{{ o }}",
    "{% set a = 'x' * 16000000 %}{{ (['b'] * 190000) | select('in', a) | list | length }}",
    "{% set a = 'x' * 16000000 %}{{ a | select('equalto', 'y') | list }}",
    "{% set a = 'x' * 16000000 %}{{ a | map(attribute='x') | list | length }}",
    "{% set a = 'x' * 16000000 %}{{ a | groupby('x') | length }}",
    "{{ ([[1]] * 90000) | sum(start=[]) | length }}",
    "{{ ('{0:>9999}' * 200000).format(1) | length }}",
    "{{ ('%(a)9999d' * 200000) % {'a': 1} }}",
    "{{ ('%(a(b))9999d' * 200000) % {'a(b)': 1} }}",
    "{{ ('{0' + '[0]' * 1000 + '}') * 5000 }}{{ (('{0' + '[0]' * 1000 + '}') * 5000).format('x') }}",
    "{% set d = {'a': 'x' * 16000000} %}{{ ('%s' * 2000) % ((d.values(),) * 2000) }}",
    "{{ ('%9999d' * 200000) % ((1,) * 200000) }}",
    "{{ ('%999d' * 200000) % ((1,) * 200000) }}",
    "{% set a = 'x' * 16000000 %}{{ range(200) | map(attribute='x', default=a) | join }}",
    "{% set a = 'x' * 16000000 %}{{ range(200) | list | tojson(separators=(a, ':')) }}",
    "{% set o = namespace(x=[1] * 150000) %}{% for i in range(20) %}{% set o.x = [o.x] %}{% endfor %}{{ o.x | tojson(indent='x' * 64) }}",
    "{% set a = 'x' * 16000000 %}{{ a | batch(1) | list }}",
    "{{ ('a ' * 8000000) | title }}",
    "{{ ('x' * 16000000) | urlencode }}",
    "{% set a = 'x' * 16000000 %}{{ cycler(*a) }}",
    "{{ ('x' * 16000000) | max }}",
    "{{ ('x' * 16000000) | sum(start='') }}",
    "{{ ('x' * 16000000 ~ 'ü').encode('punycode') }}",
    "{{ ('x ' * 8000000).split() | length }}",
    "{{ ('x\n' * 8000000).splitlines() | length }}",
    "{{ 'x\t'.expandtabs(tabsize=100000000) }}",
    "{{ ('f' * 16000000) | int(0, 16) }}",
    "{% set o = namespace(x=[]) %}{% for i in range(25000) %}{% set o.x = o.x | select %}{% endfor %}{{ o.x | list }}",
    "{{ 'x' * 16000000 }}{{ 'x' * 16000000 }}",
]


@pytest.mark.parametrize("source", HOSTILE + IN_ONE_EXPRESSION)
def test_hostile_templates_are_refused_within_a_second(source: str) -> None:
    started = time.thread_time()
    template = ChatTemplate("x", source)
    with pytest.raises(RequestError, match="template 'x'"):
        template.render(HI, {})
    assert time.thread_time() - started < 2, "a second, and as much for a busy machine"
    assert ChatTemplate("y", "{{ messages[0].content }}").render(HI, {}) == "hi"


@pytest.mark.parametrize(
    "source",
    ["{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}", "x" * 300_000,
     "{% if x %}" * 200 + "{% endif %}" * 200, "{{ 1 | nonesuch }}", "{{ " + "9" * 5000 + " }}",
     "{% if 1 %}" + "{% elif 1 %}" * 5000 + "{% endif %}"],
    ids=range(6),
)  # fmt: skip
def test_templates_that_cannot_be_compiled_are_named(source: str) -> None:
    with pytest.raises(TemplateError, match="template 'x'"):
        ChatTemplate("x", source)


def test_no_text_of_a_message_is_run() -> None:
    for name in named_templates():
        template = load(name, None)
        assert template is not None
        hostile = "{{ 1 + 1 }}{% raw %}{{ messages.__class__ }}"
        assert hostile in template.render([{"role": "user", "content": hostile}], {})


def test_hostile_messages_are_bounded() -> None:
    """Many, long, deep and odd: each named template answers or refuses within a second."""
    many = [{"role": ("user", "assistant")[n % 2], "content": "x"} for n in range(2001)]
    odd = [{"role": "user", "content": "hi", "tool_calls": {"a": [1]}, "x": "y" * 10_000}]
    deep = json.loads("[" * 500 + "]" * 500)
    for name in named_templates():
        template = load(name, None)
        assert template is not None
        for messages in (many, odd, [{"role": "user", "content": "z" * 300_000, "deep": deep}]):
            started = time.thread_time()
            with contextlib.suppress(RequestError):
                template.render(messages, {})
            assert time.thread_time() - started < 1, name
    with pytest.raises(RequestError, match="messages is nested too deeply"):
        parse_messages("[" * 100_000)


USER = '{"role": "user", "content": '
HOSTILE_JSON = {
    "many": "[" + ",".join([USER + '"x"}'] * 10**6) + "]",
    "many and short": "[" + ",".join([USER + '"x"}'] * 100_000) + "]",
    "long": f'[{USER}"{"x" * 10**8}"' + "}]",
    "lists": f'[{USER}"x", "y": [' + ",".join(["[]"] * 1_600_000) + "]}]",
    "digits": f'[{USER}"x", "y": ' + "9" * 5000 + "}]",
    "role": '[{"role": ' + "[" * 900 + "]" * 900 + ', "content": "x"}]',
    "long role": '[{"role": "' + "x" * 10**6 + '", "content": "x"}]',
    "half": f'[{USER}"\\ud800"' + "}]",
    "half a key": f'[{USER}"x", "\\uDC00": 1' + "}]",
    **{
        f"deep {depth}": f'[{USER}"\\ud83d\\ude00", "y": ' + "[" * depth + "]" * depth + "}]"
        for depth in (*range(800, 1000, 5), 5000, 10**6)
    },
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_json_is_refused_or_rendered_within_a_second(name: str) -> None:
    template = ChatTemplate("x", "{{ messages | tojson(ensure_ascii=true) }}")
    started = time.thread_time()
    refusals = []
    try:
        template.render(parse_messages(HOSTILE_JSON[name]), {})
    except RequestError as error:
        refusals.append(str(error))
    assert time.thread_time() - started < 2, "a second, and as much for a busy machine"
    assert refusals or name.startswith("deep")
    assert all(len(text.encode()) < 1000 for text in refusals)


def test_odd_numbers_and_keys_are_as_json_loads_has_them() -> None:
    messages = parse_messages("[" + USER + '"a", "content": "b", "n": NaN, "i": -Infinity}]')
    template = ChatTemplate("x", "{{ messages[0].content }} {{ messages[0].n }} {{ x }}")
    arguments = parse_template_arguments('{"x": -1e999}')
    assert template.render(messages, {}, arguments=arguments) == "b nan -inf"
    with pytest.raises(RequestError, match="chat_template_kwargs is not JSON: Exceeds the limit"):
        parse_template_arguments('{"x": ' + "9" * 5000 + "}")
    grown = parse_template_arguments('{"x": ' + "9" * 4300 + "}")
    with pytest.raises(RequestError, match="template 'x' fails"):
        ChatTemplate("x", "{{ x + x }}").render(HI, {}, arguments=grown)


@pytest.mark.parametrize(
    "source",
    ["{{ '\\ud800' }}", "{{ '%c' % 55296 }}", "{{ raise_exception('\\ud800') }}",
     "{{ raise_exception('x' * 10000000) }}"],
)  # fmt: skip
def test_half_a_character_made_by_a_template_is_the_requests_fault(source: str) -> None:
    """What is not caught here spoils the requests that are encoded together with this one."""
    with pytest.raises(RequestError, match="template 'x'") as caught:
        ChatTemplate("x", source).render(HI, {})
    assert len(str(caught.value).encode()) < 1000


SAMPLES = {
    "words": "{{ '%s|%5.2f|%-8s' % ('a', 1.234, 'b') }}{{ '**%s** 2024 * 3' % 'x' }}",
    "format": "{{ '{:>8}|{}|{:.2f} of 2024'.format('a', [1], 2.5) }}",
    "lists": "{{ ' a  b '.split() }}{{ 'a,b,c'.split(',', 1) }}{{ 'a,b,c'.rsplit(',')[0] }}"
    "{{ 'a\nb'.splitlines() }}{{ 'xaxbx'.strip('x').rfind('x') }}{{ 'a<x>b'.rpartition('<x>') }}",
    "filters": "{{ [3, 1] | sort | join('-') }}{{ [{'a': 1}, {}] | map(attribute='a', default=0) | list }}"
    "{{ [[1], [2]] | sum(start=[]) }}{{ 2.567 | round(1) }}{{ '  x ' | trim }}{{ 'ab cd' | title }}"
    "{{ range(5) | select('odd') | map('string') | join(',') }}{{ [1, 2, 3] | batch(2, 0) | list }}"
    "{{ {'a': [1, {}]} | tojson(indent=2) }}{{ [] | tojson(separators=(',', ':')) }}{{ '12' | int }}"
    "{{ [none, undefined_name, 1] | join('+') }}{{ -1 | abs }}{{ [1, 2][-1:] }}{{ dict(a=1).items() | list }}",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_bounded_is_as_in_plain_jinja(name: str) -> None:
    plain = jinja2.Environment()
    plain.filters["tojson"] = plain.policies["json.dumps_function"] = json.dumps
    expected = plain.from_string(SAMPLES[name]).render()
    assert ChatTemplate("x", SAMPLES[name]).render(HI, {}) == expected


def test_ordinary_work_is_within_the_bounds() -> None:
    source = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{% set content = '[' ~ m.role ~ '] ' ~ m.content | trim %}{{ content + '\\n' }}"
        "{% endfor %}{{ ns.n }}"
    )
    messages = [{"role": "user", "content": "word " * 100} for _ in range(2000)]
    prompt = ChatTemplate("x", source).render(messages, {})
    assert prompt.endswith("\n2000")
    assert len(prompt) > 1_000_000
