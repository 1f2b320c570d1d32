"""Templates, tools and template arguments through a real Triton; the engine replays the prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from harness import Server, generate_replay, launched
from trt_tokenizers.templates.render import _VARIANTS, named_templates

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def allowing(sentencepiece_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("templates")
    repository = generate_replay(
        folder / "repo", sentencepiece_dir, "--tokenizer-type", "llama", "--template", "chatml",
        "--set", "allow_request_templates=true",
    )  # fmt: skip
    with launched(repository, folder) as server:
        yield server


def prompt(server: Server, **body: object) -> str:
    answer = server.ask({"messages": json.dumps([{"role": "user", "content": "hi"}]),
                         "skip_special_tokens": False, "max_tokens": 400, **body})  # fmt: skip
    return str(answer["text_output"])


@pytest.mark.parametrize("name", sorted(set(named_templates()) - set(_VARIANTS)))
def test_one_bos_with_every_named_template(allowing: Server, name: str) -> None:
    source = (files("trt_tokenizers.templates") / "named" / f"{name}.jinja").read_text()
    arguments = json.dumps({"chat_template": source})
    text = prompt(allowing, chat_template_kwargs=arguments)
    assert text.count("<s>") == 1
    assert text.startswith("<s>")
    assert "hi" in text


def test_tools_and_arguments_arrive(allowing: Server) -> None:
    source = "{{ tools[0].function.name }} {{ enable_thinking }}"
    arguments = json.dumps({"chat_template": source, "enable_thinking": False})
    tools = json.dumps([{"type": "function", "function": {"name": "weather"}}])
    assert prompt(allowing, tools=tools, chat_template_kwargs=arguments) == "<s> weather False"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"chat_template_kwargs": "{"}, "chat_template_kwargs is not JSON"),
        ({"tools": "7"}, "tools must be a JSON list"),
        ({"chat_template_kwargs": json.dumps({"chat_template": "{{ raise_exception('no') }}"})},
         "template 'chat_template' refuses these messages: no"),
        ({"chat_template_kwargs": json.dumps({"chat_template": "{{ 'x' * 10000000000 }}"})},
         "at most 16777216 is served"),
        ({"chat_template_kwargs": json.dumps(
            {"chat_template": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
                              "{% endfor %}"})}, "takes more than 0.5 s"),
        ({"chat_template_kwargs": json.dumps({"chat_template": r"{{ '\ud800' }}"})},
         "surrogates not allowed"),
        ({"chat_template_kwargs": '{"x": ' + "9" * 5000 + "}"}, "chat_template_kwargs is not JSON"),
        ({"messages": r'[{"role": "user", "content": "\ud800"}]'}, "half of a surrogate pair"),
        ({"messages": '[{"role": ' + "[" * 900 + "]" * 900 + "}]"}, "messages[0] has the role"),
        ({"messages": "[" + ",".join(['{"role": "user", "content": ""}'] * 60_000) + "]"},
         "at most 50000 are served"),
        ({"embedding_bias_words": ["a"], "embedding_bias_weights": [1.0]}, "set vocab_size"),
    ],
    ids=["kwargs", "tools", "raises", "size", "time", "half", "digits", "half-sent", "role", "many",
         "bias"],
)  # fmt: skip
def test_what_the_client_can_mend_is_a_400(
    allowing: Server, body: dict[str, object], message: str
) -> None:
    messages = json.dumps([{"role": "user", "content": "hi"}])
    status, answer = allowing.generate({"messages": messages, **body})
    assert status == 400
    assert message in answer["error"]
    assert prompt(allowing).startswith("<s>"), "the server lives on"
