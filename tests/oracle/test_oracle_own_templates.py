"""The selection among a model's own templates, compared with transformers."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from applicable import needs_oracle
from trt_tokenizers.errors import RequestError
from trt_tokenizers.processing.prompts import PromptMaker, PromptSettings
from trt_tokenizers.processing.request import TextRequest
from trt_tokenizers.tokenizers.registry import create

MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
SHOWS = "{{ tools | length if tools else 0 }}{{ documents | length if documents else 0 }}"
NAMES = ("default", "tool_use", "rag", "other")
SETS = [names for n in range(len(NAMES) + 1) for names in itertools.combinations(NAMES, n)]


def model(folder: Path, work: Path, names: tuple[str, ...], layout: str) -> Path:
    shutil.copytree(folder, work)
    path = work / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = f"config {SHOWS}"  # which files replace
    if layout == "files":
        del config["chat_template"]
    sources = {name: f"{name} {SHOWS} {{{{ messages[0].content }}}}" for name in names}
    if layout == "list":
        config["chat_template"] = [{"name": n, "template": s} for n, s in sources.items()]
    elif layout == "object":
        config["chat_template"] = sources
    else:
        (work / "additional_chat_templates").mkdir()
        (work / "additional_chat_templates" / "notes.txt").write_text("no template")
        for name, source in sources.items():
            own = "chat_template" if name == "default" else f"additional_chat_templates/{name}"
            (work / f"{own}.jinja").write_text(source)
    path.write_text(json.dumps(config))
    return work


@pytest.mark.parametrize("layout", ["list", "object", "files", "both"])
@pytest.mark.parametrize("names", SETS, ids="+".join)
@pytest.mark.parametrize("kind", ["auto", "transformers"])
def test_the_selected_template_is_that_of_transformers(
    bpe_dir: Path, tmp_path: Path, names: tuple[str, ...], layout: str, kind: str
) -> None:
    from transformers import AutoTokenizer

    folder = model(bpe_dir, tmp_path / "model", names, layout)
    oracle = AutoTokenizer.from_pretrained(folder)
    settings = PromptSettings(str(folder), kind)
    maker = PromptMaker(settings, create(settings))
    for tools, named in itertools.product((None, TOOLS), (None, *NAMES)):
        arguments: dict[str, Any] = {"documents": [{"title": "t", "text": "x"}]}
        if named is not None:
            if not isinstance(oracle.chat_template, dict) or named not in oracle.chat_template:
                continue  # transformers then treats it as Jinja
            arguments["chat_template"] = named
        request = TextRequest(
            messages=[json.dumps(MESSAGES).encode()],
            tools=[json.dumps(tools).encode() if tools else b""],
            chat_template_kwargs=[json.dumps(arguments).encode()],
        )
        try:
            expected = oracle.apply_chat_template(MESSAGES, tools=tools, tokenize=False,
                                                  **arguments)  # fmt: skip
        except ValueError:
            with pytest.raises(RequestError, match="template"):
                maker.make(request)
        else:
            (prompt,) = maker.make(request)
            assert prompt.text == expected, (tools, named)


@pytest.mark.parametrize("kind", ["auto", "transformers"])
def test_all_special_tokens_reach_a_template_by_name(
    bpe_dir: Path, tmp_path: Path, kind: str
) -> None:
    needs_oracle()
    from transformers import AutoTokenizer

    names = (
        "bos_token",
        "eos_token",
        "pad_token",
        "mask_token",
        "think_token",
        "image_token",
        "tool",
    )
    shutil.copytree(bpe_dir, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer_config.json"
    added = {"__type": "AddedToken", "content": "<image>", "lstrip": True, "special": True}
    config = json.loads(path.read_text()) | {
        "chat_template": "|".join(f"{{{{ {name} }}}}" for name in names),
        "pad_token": "<pad>",
        "image_token": added,
        "add_bos_token": False,
        "extra_special_tokens": {"think_token": "<think>", "tool": "<tool>"},
    }
    path.write_text(json.dumps(config))
    oracle = AutoTokenizer.from_pretrained(tmp_path)
    settings = PromptSettings(str(tmp_path), kind)
    maker = PromptMaker(settings, create(settings))
    (prompt,) = maker.make(TextRequest(messages=[json.dumps(MESSAGES).encode()]))
    expected = "<|endoftext|>|<|im_end|>|<pad>||<think>|<image>|<tool>"
    assert prompt.text == expected == oracle.apply_chat_template(MESSAGES, tokenize=False)
    assert maker.encode([prompt]) == [oracle.apply_chat_template(MESSAGES, return_dict=False)]
