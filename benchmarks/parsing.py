"""What parsing an answer costs for each token: the parsers of the OpenAI front end.

Each answer has 200 tokens of reasoning and 400 of content, or a call whose argument is a text of
400 tokens, of 4 characters each. Tokens come one at a time or 8 at a time. Markers are special
pieces, as the ensemble sends them. Figures are medians of CPU time over the turns.

    python benchmarks/parsing.py [--turns 9]
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click

from trt_tokenizers.openai.parsing import Piece, make_parser

WORDS = " ".join((Path(__file__).parents[1] / "LICENSE").read_text().split())
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "write",
            "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
        },
    }
]
THINK = ("<think>\n", "\n</think>\n\n")
#: Name -> reasoning parser, its markers, a call with this text.
FAMILIES: dict[str, tuple[str, tuple[str, str], Callable[[str], str]]] = {
    "none": ("none", ("", ""), lambda text: text),
    "hermes": (
        "think",
        THINK,
        lambda text: (
            f'<tool_call>\n{{"name": "write", "arguments": {{"text": {json.dumps(text)}}}}}\n'
            "</tool_call>"
        ),
    ),
    "qwen3_coder": (
        "think",
        THINK,
        lambda text: (
            f"<tool_call>\n<function=write>\n<parameter=text>\n{text}\n</parameter>\n</function>\n</tool_call>"
        ),
    ),
    "gemma": (
        "gemma",
        ("<|channel>thought\n", "<channel|>"),
        lambda text: f'<|tool_call>call:write{{text:<|"|>{text}<|"|>}}<tool_call|>',
    ),
    "gpt_oss": (
        "gpt_oss",
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
        lambda text: (
            "<|channel|>commentary to=functions.write <|constrain|>json<|message|>"
            f"{json.dumps({'text': text})}<|call|>"
        ),
    ),
}
CONTENT = {"gpt_oss": "<|channel|>final<|message|>"}
MARKER = re.compile(r'(</?think>|</?tool_call>|<\|"\|>|<\|?[a-z_]+\|?>)')


def tokens_of(text: str) -> list[Piece]:
    pieces = []
    for number, part in enumerate(MARKER.split(text)):
        if number % 2:
            pieces.append(Piece(part, special=True))
        else:
            pieces += [Piece(part[at : at + 4]) for at in range(0, len(part), 4)]
    return pieces


def grouped(tokens: list[Piece], size: int) -> list[list[Piece]]:
    groups = []
    for at in range(0, len(tokens), size):
        group: list[Piece] = []
        for token in tokens[at : at + size]:
            if group and not token.special and not group[-1].special:
                group[-1] = Piece(group[-1].text + token.text)
            else:
                group.append(token)
        groups.append(group)
    return groups


def seconds(name: str, reasoning: str, groups: list[list[Piece]]) -> float:
    start = time.process_time()
    for _ in range(20):
        parser = make_parser(name, reasoning, tools=TOOLS)
        for group in groups:
            parser.feed(group)
        parser.finish(cut=False)
    return (time.process_time() - start) / 20


@click.command()
@click.option("--turns", default=9, show_default=True)
def main(turns: int) -> None:
    click.echo("microseconds a token      content         call         new parser")
    click.echo("tokens at a time           1     8       1     8")
    for name, (reasoning, (start, close), call) in FAMILIES.items():
        thought = f"{start}{WORDS[:800]}{close}"
        costs = []
        for answer in (CONTENT.get(name, "") + WORDS[800:2400], call(WORDS[800:2400])):
            tokens = tokens_of(thought + answer)
            for size in (1, 8):
                groups = grouped(tokens, size)
                times = [seconds(name, reasoning, groups) for _ in range(turns)]
                costs.append(statistics.median(times) / len(tokens) * 1e6)
        new = statistics.median(seconds(name, reasoning, []) for _ in range(turns)) * 1e6
        one, eight, call_one, call_eight = costs
        click.echo(
            f"{name:22} {one:6.2f} {eight:5.2f}  {call_one:6.2f} {call_eight:5.2f}  {new:8.1f}"
        )


if __name__ == "__main__":
    main()
