"""Templates, tools and template arguments through a real Triton; the engine replays the prompt."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
import tokenizers
from tokenizers.processors import TemplateProcessing

from conversations import CONVERSATIONS, talk
from harness import Server, generate_replay, launched
from trt_tokenizers.templates.render import _VARIANTS, named_templates
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.registry import create

pytestmark = pytest.mark.triton

#: Templates of models whose BOS is not ``<s>``.
OWN_BOS = {
    "llama3": "<|begin_of_text|>",
    "gemma": "<bos>",
    "deepseek": "<｜begin▁of▁sentence｜>",
    "command-r": "<BOS_TOKEN>",
}


@pytest.fixture(scope="module")
def allowing(
    sentencepiece_dir: Path, bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """An ensemble whose BOS is ``<s>``, and further preprocessing models that return ids: one with
    the same tokenizer, and one for each of `OWN_BOS`."""
    folder = tmp_path_factory.mktemp("templates")
    repository = generate_replay(
        folder / "repo", sentencepiece_dir, "--tokenizer-type", "llama", "--template", "chatml",
        "--set", "allow_request_templates=true",
    )  # fmt: skip
    # Keys by request id: a request without one leaves no context for which the stop would wait.
    keyless = {"stream_key": "request_id"}
    # max_seq_len unknown: prompts of 5,000,000 characters.
    further_preprocessing(repository, "plain", keyless | {"max_seq_len": "0"})
    for name, bos in OWN_BOS.items():
        its = {
            "tokenizer_dir": str(with_bos(bpe_dir, folder / name, bos)),
            "tokenizer_type": "auto",
        }
        further_preprocessing(repository, name, keyless | its)
    with launched(repository, folder) as server:
        yield server


def further_preprocessing(repository: Path, name: str, parameters: dict[str, str]) -> None:
    """A model ``preprocessing-<name>``: preprocessing with other *parameters*."""
    model = repository / f"preprocessing-{name}"
    shutil.copytree(repository / "preprocessing", model)
    config = (model / "config.pbtxt").read_text()
    for key, value in parameters.items():
        pattern = rf'(key: "{key}"[^"]*string_value: )"[^"]*"'
        config, found = re.subn(pattern, rf'\1"{value}"', config)
        assert found == 1, key
    config = config.replace('name: "preprocessing"', f'name: "{model.name}"')
    config = re.sub(r"count: \d+", "count: 1", config)
    (model / "config.pbtxt").write_text(config)


def with_bos(bpe_dir: Path, folder: Path, bos: str) -> Path:
    """The trained BPE with *bos*; its tokenizer.json prepends it, like Llama 3's."""
    folder.mkdir()
    state = json.loads((bpe_dir / "tokenizer.json").read_text())
    text = json.dumps(state, ensure_ascii=False).replace("<|endoftext|>", bos)
    library = tokenizers.Tokenizer.from_str(text)
    library.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])
    library.save(str(folder / "tokenizer.json"))
    names = {"bos_token": bos, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def arguments_of(name: str) -> str:
    """Template arguments with the source of the named template *name*."""
    own, variables = _VARIANTS.get(name, (name, {}))
    source = (files("trt_tokenizers.templates") / "named" / f"{own}.jinja").read_text()
    return json.dumps({"chat_template": source, **variables})


def prompt(server: Server, **body: object) -> str:
    answer = server.ask({"messages": json.dumps([{"role": "user", "content": "hi"}]),
                         "skip_special_tokens": False, "max_tokens": 400, **body})  # fmt: skip
    return str(answer["text_output"])


@pytest.mark.parametrize("name", named_templates())
def test_one_bos_with_every_named_template(allowing: Server, name: str) -> None:
    text = prompt(allowing, chat_template_kwargs=arguments_of(name))
    assert text.count("<s>") == 1
    assert text.startswith("<s>")
    assert "hi" in text


@pytest.mark.parametrize("name", named_templates())
def test_one_bos_in_every_conversation(allowing: Server, name: str) -> None:
    """With a tokenizer whose BOS is ``<s>``, and with one that has the model's own BOS."""
    arguments = arguments_of(name)
    for bos, bos_id, model in (
        ("<s>", 1, "preprocessing-plain"),
        *([(OWN_BOS[name], 0, f"preprocessing-{name}")] if name in OWN_BOS else []),
    ):
        for messages in (*CONVERSATIONS, talk("Hi", "Yes", "So", system=f"{bos}{bos}s")):
            body = {"messages": json.dumps(messages), "chat_template_kwargs": arguments}
            ids = allowing.preprocess(body, model)["INPUT_ID"][0].tolist()
            written = json.dumps(messages).count(bos)
            # llama2 has one before every turn; a BOS inside the messages stays.
            turns = sum(m["role"] == "user" for m in messages) if name == "llama2" else 1
            assert ids[0] == bos_id != ids[1], messages
            assert ids.count(bos_id) <= turns + written, messages
            assert written or ids.count(bos_id) == turns, messages


@pytest.mark.parametrize("name", OWN_BOS)
def test_one_bos_in_front_of_a_text(allowing: Server, name: str) -> None:
    for times in range(4):
        text = OWN_BOS[name] * times + "hi"
        ids = allowing.preprocess({"text_input": text}, f"preprocessing-{name}")["INPUT_ID"][0]
        assert [i == 0 for i in ids.tolist()] == [True, *[False] * (len(ids) - 1)]


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
        ({"chat_template_kwargs": json.dumps({"chat_template": "{{ 'x' * 20000000 }}"})},
         "makes a prompt of 20000000 characters; the limit is 16777216"),
        ({"chat_template_kwargs": json.dumps({"chat_template": r"{{ '\ud800' }}"})},
         "surrogates not allowed"),
        ({"chat_template_kwargs": '{"x": ' + "9" * 5000 + "}"}, "chat_template_kwargs is not JSON"),
        ({"messages": r'[{"role": "user", "content": "\ud800"}]'}, "half of a surrogate pair"),
        ({"messages": '[{"role": ' + "[" * 900 + "]" * 900 + "}]"}, "messages[0] has the role"),
        ({"messages": "[" + ",".join(['{"role": "user", "content": ""}'] * 100_001) + "]"},
         "messages has 100001 messages; the limit is 100000"),
        ({"embedding_bias_words": ["a"], "embedding_bias_weights": [1.0]}, "set vocab_size"),
    ],
    ids=["kwargs", "tools", "raises", "size", "half", "digits", "half-sent", "role", "many",
         "bias"],
)  # fmt: skip
def test_an_error_that_the_client_can_fix_is_a_400(
    allowing: Server, body: dict[str, object], message: str
) -> None:
    messages = json.dumps([{"role": "user", "content": "hi"}])
    status, answer = allowing.generate({"messages": messages, **body})
    assert status == 400
    assert message in answer["error"]
    assert prompt(allowing).startswith("<s>"), "the server lives on"


def test_fifty_thousand_messages(allowing: Server, sentencepiece_dir: Path) -> None:
    messages = talk(*(str(number) for number in range(50_000)))
    body = {"messages": json.dumps(messages)}
    ids = allowing.preprocess(body, "preprocessing-plain")["INPUT_ID"][0].tolist()
    text = create(TokenizerSettings(str(sentencepiece_dir), "llama")).decode(ids)
    turns = (f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    assert text == "".join(turns) + "<|im_start|>assistant\n"
