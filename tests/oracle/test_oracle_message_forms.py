"""OpenAI's wire form with the makers' templates; transformers gets the form that each reads.

The templates come from trl. scripts/oracles.txt installs it without its
dependencies: the tests read only its data.
"""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from conversations import TOOL, called, talk
from trt_tokenizers.templates.render import ChatTemplate

SPEC = find_spec("trl")
FOLDER = Path(str(SPEC.origin)).parent / "chat_templates" if SPEC else Path()
NAMES = sorted(p.stem for p in FOLDER.glob("*.jinja") if not p.stem.endswith("_training"))

pytestmark = pytest.mark.skipif(not NAMES, reason="pip install -r scripts/oracles.txt")

#: Templates that join arguments to text without tojson.
TEXT_ONLY = {"deepseekv3", "deepseek_r1_distill"}
#: Templates that loop over the parts of a content and print nothing of a text.
PARTS_ONLY = {"idefics3", "llava_next"}
#: Templates that print parts otherwise than text.
READS_PARTS = {"gemma4", "diffusion_gemma"}
CITY = {"city": "Łódź", "days": 2}


def original(name: str, messages: Any, tools: Any = None) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    (prompt,), _ = render_jinja_template(
        conversations=[messages], chat_template=source(name), tools=tools,
        bos_token="<s>", eos_token="</s>", add_generation_prompt=True,
    )  # fmt: skip
    return str(prompt)


def source(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def ours(name: str, messages: Any, tools: Any = None) -> str:
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatTemplate(name, source(name)).render(messages, tokens, tools=tools)


@pytest.mark.parametrize("name", [n for n in NAMES if "tool_calls" in source(n)])
def test_arguments_as_text_and_a_content_of_null(name: str) -> None:
    tools = [TOOL] if ChatTemplate(name, source(name)).reads >= {"tools"} else None
    text = json.dumps(CITY, ensure_ascii=False)
    given = called(text if name in TEXT_ONLY else CITY)
    if name == "deepseek_r1_distill":  # it writes calls only if the content is none
        given[1]["content"] = None
    expected = original(name, given, tools)
    assert "Łódź" in expected
    for arguments in (CITY, text, json.dumps(CITY, separators=(",", ":"), ensure_ascii=False)):
        for content in ("", None, ...):
            messages = called(arguments)
            messages[1]["content"] = content
            if content is ...:
                del messages[1]["content"]
            prompt = ours(name, messages, tools)
            if name in TEXT_ONLY:  # text stays as it is
                prompt = prompt.replace('{"city":"Łódź","days":2}', text)
            assert prompt == expected, (arguments, content)


@pytest.mark.parametrize("name", NAMES)
def test_content_as_text_and_as_parts(name: str) -> None:
    def parts(*texts: str) -> Any:
        return [{"type": "text", "text": text} for text in texts]

    plain = talk("How is the weather?", "Sunny.", "And the wind?", system="Be terse.")
    as_parts = [{**m, "content": parts(m["content"])} for m in plain]
    if name == "gemma":  # it has no system messages
        plain, as_parts = plain[1:], as_parts[1:]
    reads_parts = name in READS_PARTS | PARTS_ONLY
    expected = original(name, as_parts if name in PARTS_ONLY else plain)
    assert "And the wind?" in expected
    assert ours(name, plain) == expected
    assert ours(name, as_parts) == original(name, as_parts if reads_parts else plain)
    two = [*plain[:-1], {"role": "user", "content": parts("And the ", "wind?")}]
    whole, cut = ours(name, two), expected.index("And the wind?")
    assert whole[:cut] == expected[:cut]
    assert re.sub(r"\s", "", whole) == re.sub(r"\s", "", expected)
