"""Conversations with which every chat template is tested."""

from __future__ import annotations

from typing import Any

Messages = list[dict[str, Any]]


def talk(*contents: str, system: str | None = None) -> Messages:
    """A conversation of alternating user and assistant, after the system message if given."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for at, content in enumerate(contents):
        messages.append({"role": ("user", "assistant")[at % 2], "content": content})
    return messages


CONVERSATIONS = [
    talk("Hi"),
    talk("Hi", system="Be terse."),
    talk("Hi", "Hello!", "And now?"),
    talk("Hi", "Hello!", "And now?", "Well.", "Go on", system="Be terse."),
    talk("two\nlines\n\n- and\n- more", system="s"),
    talk("Hi", "", "an empty answer", system="s"),
    talk("<b>&amp;</b> {{ x }} {% y %} 'q' \"d\" \\n"),
    talk("안녕하세요", "😀 네", "中文？", system="한국어로"),
    talk("def f(x):\n    return x", "```python\nf(1)\n```", "thanks"),
    talk("x" * 500, "y" * 500, "z", system="s\ns"),
    talk(" spaces around ", " and here ", "\tand a tab\n"),
    talk("Hi", "Hello!", "And now?", system=" spaces around\n"),
]

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Tells the "weather" in Łódź',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def called(arguments: Any) -> Messages:
    """A conversation that ends with a tool's answer to a call with these *arguments*."""
    function = {"name": "weather", "arguments": arguments}
    call = {"id": "abcdefghi", "type": "function", "function": function}
    return [
        *talk("How is the weather?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny, 20 °C", "name": "weather", "tool_call_id": "abcdefghi"},
    ]


#: Mistral's named templates -> a file of mistral-common and the version of the format. It has no
#: tekken file of version 7; the format depends on the version only, not on the vocabulary.
MISTRAL = {
    "mistral-v1": ("tokenizer.model.v1", "v1"),
    "mistral-v3": ("mistral_instruct_tokenizer_240323.model.v3", "v3"),
    "mistral-v7": ("mistral_instruct_tokenizer_241114.model.v7", "v7"),
    "mistral-v3-tekken": ("tekken_240718.json", "v3"),
    "mistral-v7-tekken": ("tekken_240718.json", "v7"),
}
