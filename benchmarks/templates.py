"""What a chat template costs: our code and plain Jinja, in pairs in one run.

Plain Jinja is an ImmutableSandboxedEnvironment with the same options, filters and functions. For
each template and number of messages, of 100 words each, two costs are measured: of rendering alone,
and of all that preprocessing does with the input `messages` (JSON text -> checked messages ->
prompt), where plain Jinja's side is json.loads and rendering. Both sides give the same prompt.
Figures are medians of CPU time over the turns, in which the sides alternate.

    python benchmarks/templates.py [--turns 9]
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trt_tokenizers.templates.messages import parse_messages
from trt_tokenizers.templates.render import ChatTemplate
from trt_tokenizers.templates.sandbox import make_environment

GOAL = 1.3  # ours / plain, rendering alone
COUNTS = (2, 20, 300)
WORDS = (Path(__file__).parents[1] / "LICENSE").read_text().split()
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

#: Searches for the last question in reverse, and reads the number of messages in its loops, as the
#: template of Qwen 3 does.
QWEN3_STYLE = r"""{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
    {%- if loop.index0 == messages|length - 1 and add_generation_prompt %}
        {{- '<|im_start|>assistant\n' }}
    {%- endif %}
{%- endfor %}
"""  # noqa: E501 - lines as long as a model's own


def conversation(count: int) -> list[dict[str, str]]:
    return [
        {
            "role": ("user", "assistant")[at % 2],
            "content": " ".join(WORDS[(at * 37 + n) % len(WORDS)] for n in range(100)),
        }
        for at in range(count)
    ]


def plain_template(source: str) -> jinja2.Template:
    ours = make_environment()
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters.update(ours.filters)
    environment.globals.update(ours.globals)
    return environment.from_string(source)


def microseconds(call: Callable[[], Any], calls: int) -> float:
    """CPU time of one call, as the mean of *calls*."""
    gc.collect()
    started = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - started) / calls * 1e6


def paired(
    ours: Callable[[], str], plain: Callable[[], str], turns: int
) -> tuple[float, float, float]:
    """Microseconds of both sides, and the ratio; medians of *turns*, after one turn to warm up."""
    assert ours() == plain()
    calls = max(1, int(2e4 / microseconds(plain, 3)))  # about 20 ms a turn and side
    pairs = [(microseconds(ours, calls), microseconds(plain, calls)) for _ in range(turns + 1)][1:]
    us, them = (statistics.median(side) for side in zip(*pairs, strict=True))
    return us, them, statistics.median(a / b for a, b in pairs)


@click.command(epilog="Example: python benchmarks/templates.py --turns 9")
@click.option("--turns", default=9, show_default=True, help="Measured turns of each pair.")
def main(turns: int) -> None:
    """Render conversations by our code and by plain Jinja, side by side."""
    named = files("trt_tokenizers.templates") / "named"
    sources = {n: (named / f"{n}.jinja").read_text() for n in ("chatml", "llama3", "qwen")}
    sources["a model's own"] = QWEN3_STYLE
    worst = 0.0
    click.echo(f"{'':<23} | rendering, µs: ours, plain   ratio | all, µs: ours, plain   ratio")
    for name, source in sources.items():
        template, plain = ChatTemplate(name, source), plain_template(source)

        def render_plain(messages: Any, plain: jinja2.Template = plain) -> str:
            return plain.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **TOKENS
            )

        for count in COUNTS:
            messages = conversation(count)
            text = json.dumps(messages)
            alone = paired(
                lambda m=messages, t=template: t.render(m, TOKENS),
                lambda m=messages, p=render_plain: p(m),
                turns,
            )
            whole = paired(
                lambda j=text, t=template: t.render(parse_messages(j), TOKENS),
                lambda j=text, p=render_plain: p(json.loads(j)),
                turns,
            )
            worst = max(worst, alone[2])
            shown = (f"{us:14.1f} {them:12.1f} {ratio:7.2f}" for us, them, ratio in (alone, whole))
            click.echo(" | ".join((f"{name:<14} {count:>8}", *shown)))
    click.echo(f"\nrendering alone, at most: {worst:.2f} x   (goal <= {GOAL})")


if __name__ == "__main__":
    main()
