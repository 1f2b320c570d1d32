"""Named templates compared with the makers' templates, rendered by transformers.

trl and FastChat contain the makers' templates. scripts/oracles.txt installs both without their
dependencies: the tests read only their data.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from conversations import CONVERSATIONS, TOOL, Messages, called, talk
from trt_tokenizers.templates.render import load

pytestmark = pytest.mark.skipif(
    not (find_spec("trl") and find_spec("fastchat")), reason="pip install -r scripts/oracles.txt"
)

DEEPSEEK = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}

#: Our template, the file in trl, its special tokens, variables for both.
ORIGINALS: list[tuple[str, str, dict[str, str], dict[str, Any]]] = [
    ("llama3", "llama3", {"bos_token": "<|begin_of_text|>"}, {}),
    ("gemma", "gemma3", {"bos_token": "<bos>"}, {}),
    ("phi3", "phi3", {"eos_token": "<|endoftext|>"}, {}),
    ("phi3", "phi3_5", {"eos_token": "<|endoftext|>"}, {}),
    ("qwen", "qwen3", {}, {}),
    ("qwen", "qwen3", {}, {"enable_thinking": False}),
    ("command-r", "cohere", {"bos_token": "<BOS_TOKEN>"}, {}),
    ("deepseek", "deepseekv3", DEEPSEEK, {"add_generation_prompt": False}),
    ("gpt-oss", "gptoss", {}, {}),
    ("gpt-oss", "gptoss", {}, {"reasoning_effort": "high", "model_identity": "You are X."}),
]
#: Originals that add a system message if there is none.
WITH_SYSTEM = [("qwen", "qwen2_5"), ("chatml", "qwen2_5")]


def original(
    file: str, messages: Messages, tools: Any = None, tokens: Any = None, **arguments: Any
) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "chat_templates"
    (prompt,), _ = render_jinja_template(
        conversations=[messages],
        chat_template=(folder / f"{file}.jinja").read_text(encoding="utf-8"),
        tools=tools,
        **{"add_generation_prompt": True, **(tokens or {}), **arguments},
    )
    return str(prompt)


def ours(name: str, messages: Messages, tools: Any = None, **arguments: Any) -> str:
    template = load(name, None)
    assert template is not None
    return template.render(messages, {}, tools=tools, arguments=arguments)


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
@pytest.mark.parametrize(("name", "file", "tokens", "arguments"), ORIGINALS)
def test_conversations(
    name: str, file: str, tokens: Any, arguments: Any, messages: Messages
) -> None:
    expected = original(file, messages, tokens=tokens, **arguments)
    assert ours(name, messages, **arguments) == expected


@pytest.mark.parametrize(("name", "file"), WITH_SYSTEM)
def test_conversations_with_a_system_message(name: str, file: str) -> None:
    given = [m for m in CONVERSATIONS if m[0]["role"] == "system"]
    for messages in given:
        assert ours(name, messages) == original(file, messages), messages


@pytest.mark.parametrize(
    ("name", "file", "arguments"),
    [("llama3", "llama3_1", {}), ("llama3", "llama3_1", {"tools_in_user_message": False}),
     ("llama3", "llama3_2", {"date_string": "01 Jan 2026"}), ("qwen", "qwen3", {}),
     ("qwen", "qwen3", {"enable_thinking": False})],
)  # fmt: skip
@pytest.mark.parametrize("generation", [True, False])
def test_tools(name: str, file: str, arguments: dict[str, Any], generation: bool) -> None:
    arguments = {"add_generation_prompt": generation, **arguments}
    tokens = {"bos_token": "<|begin_of_text|>"}
    asked = called({"city": "Łódź"})
    for messages in (
        *CONVERSATIONS,
        asked,
        [{"role": "system", "content": " Be terse. "}, *asked],
        [*asked, {"role": "assistant", "content": "Sunny."}, *talk("And tomorrow?")],
    ):
        for tools in ([TOOL], [TOOL, TOOL]):
            expected = original(file, messages, tools, tokens, **arguments)
            assert ours(name, messages, tools, **arguments) == expected, messages
    # OpenAI's clients send the arguments as JSON text; the makers' templates expect an object.
    as_text = called('{"city": "Łódź"}')
    assert ours(name, as_text, [TOOL]) == ours(name, asked, [TOOL])


def test_deepseek_calls() -> None:
    """V3's template for one call and answer, R1-Distill's for two of each.

    V3's joins several answers differently, R1-Distill's does not end a single call, and both
    miscount in later rounds. tests/unit/templates/test_template_forms.py has V3-0324 and R1-0528,
    which fixed this.
    """
    one = called('{"city": "Łódź"}')
    calls = one[1]["tool_calls"]
    two = [one[0], {**one[1], "content": None, "tool_calls": calls * 2}, one[2], one[2]]
    more = [{"role": "assistant", "content": "Sunny."}, *talk("And tomorrow?")]
    for file, messages in (
        ("deepseekv3", one),
        ("deepseekv3", [one[0], {**one[1], "content": None}, one[2]]),
        ("deepseekv3", [one[0], {**one[1], "content": "I look."}, *one[2:], more[0]]),
        ("deepseekv3", [{"role": "system", "content": "Be terse."}, *one, *more]),
        ("deepseek_r1_distill", two),
        ("deepseek_r1_distill", [*two, *more]),
    ):
        for generation in (True, False):
            expected = original(file, messages, None, DEEPSEEK, add_generation_prompt=generation)
            got = ours("deepseek", messages, add_generation_prompt=generation)
            assert got == expected.removesuffix("<think>\n"), messages
    assert ours("deepseek", called({"city": "Łódź"})) == ours("deepseek", one)


@pytest.mark.parametrize(
    ("name", "theirs", "begin"),
    [("vicuna", "vicuna_v1.1", ""), ("zephyr", "zephyr", ""), ("llama2", "llama-2", "<s>")],
)
def test_fastchat(name: str, theirs: str, begin: str) -> None:
    """LMSYS's format of Vicuna; those of Llama 2 and Zephyr without spaces around contents."""
    from fastchat.conversation import get_conv_template

    compared = 0
    for messages in CONVERSATIONS:
        contents = [message["content"] for message in messages]
        system = messages[0]["role"] == "system"
        spaced = any(content != content.strip() for content in contents)
        # FastChat treats an empty answer as missing; its Zephyr always writes a system message.
        if "" in contents or (name == "llama2" and spaced) or (name == "zephyr" and not system):
            continue
        conversation = get_conv_template(theirs)
        if system:
            conversation.set_system_message(contents.pop(0))
        for at, content in enumerate([*contents, None]):
            conversation.append_message(conversation.roles[at % 2], content)
        assert ours(name, messages) == begin + conversation.get_prompt(), messages
        compared += 1
    assert compared
