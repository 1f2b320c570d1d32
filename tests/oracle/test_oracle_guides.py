"""Forced calls with real tokenizers whose markers are single tokens. A mask at random chooses."""

from __future__ import annotations

import json
import queue
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import mistral_common
import numpy as np
import pytest

from answers import parse
from applicable import needs_engine

needs_engine()

from guided import SCHEMAS  # noqa: E402
from trt_tokenizers.engines.base import GenerationRequest  # noqa: E402
from trt_tokenizers.engines.transformers.guides import Guide, Guides  # noqa: E402
from trt_tokenizers.openai.guides import chat_guide  # noqa: E402
from trt_tokenizers.openai.parsing import (  # noqa: E402
    Piece,
    make_parser,
    reasoning_format,
    tool_format,
)

NAMES = ("weather", "order", "escaped names", "한국어")
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": f"tool_{at}", "parameters": SCHEMAS[name]}}
    for at, name in enumerate(NAMES)
]
MISTRAL = "mistral_instruct_tokenizer_240323.model.v3"
#: Tool parser, a part of the chat template that tells the form, and the markers of a call.
FORMS = {
    "deepseek": [
        ("deepseek_v3", "```json", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>"
         "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("deepseek_v3", "", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>"
         "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
    ],
    "mistral": [("mistral", "[TOOL_CALLS] [", "[TOOL_CALLS]"), ("mistral", "", "[TOOL_CALLS]")],
}  # fmt: skip


class Walk:
    """Answers of random tokens among those that the guide allows."""

    def __init__(self, folder: Path) -> None:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.added = {at: str(token) for at, token in tokenizer.added_tokens_decoder.items()}
        self.guides = Guides(str(folder), len(tokenizer), [tokenizer.eos_token_id])
        self.encode = lambda text: tokenizer.encode(text, add_special_tokens=False)

    def compiled(self, inputs: dict[str, bytes]) -> Guide:
        guide = (
            inputs["guided_decoding_guide_type"].decode(),
            inputs["guided_decoding_guide"].decode(),
        )
        request = GenerationRequest(key=1, prompt_ids=(1,), max_tokens=1, guide=guide)
        made: queue.SimpleQueue[Guide] = queue.SimpleQueue()
        self.guides.submit(request, lambda: made.put(self.guides.compile(request)))
        return made.get(timeout=60)

    def answer(self, guide: Guide, begin: str, seed: int) -> list[Piece]:
        """The pieces of an answer that begins with the text *begin*."""
        mask = np.empty(guide.words, np.int32)
        given, ids, choose = self.encode(begin), [], random.Random(seed)
        while guide.fill(mask, ids):
            allowed = np.unpackbits(mask.view(np.uint8), bitorder="little").nonzero()[0]
            token = given[len(ids)] if len(ids) < len(given) else int(choose.choice(allowed))
            assert token in allowed
            ids.append(token)
            assert len(ids) < 1000
        return [self.piece(token) for token in ids]

    def piece(self, token: int) -> Piece:
        if token in self.added:
            return Piece(self.added[token], special=True)
        return Piece(self.guides._tokenizer.decode_bytes([token]).decode("latin-1"))


@pytest.fixture(scope="module", params=FORMS)
def walk(
    request: pytest.FixtureRequest, references: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Walk]]:
    folder = references / request.param
    if request.param == "mistral":
        folder = tmp_path_factory.mktemp("mistral")
        data = Path(mistral_common.__file__).parent / "data"
        shutil.copy(data / MISTRAL, folder / "tokenizer.model")
        config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
                  "unk_token": "<unk>", "legacy": False}  # fmt: skip
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    made = Walk(folder)
    yield request.param, made
    made.guides.stop()


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("thinking", [False, True])
def test_a_forced_call(walk: tuple[str, Walk], form: int, thinking: bool) -> None:
    """Its markers are the tokenizer's own tokens, and the parser finds the call."""
    name, made = walk
    family, template, markers = FORMS[name][form]
    prompt = "<think>" if thinking else "<think></think>"
    formats = (tool_format(family), reasoning_format("think"))
    guide = chat_guide(None, TOOLS, formats, forced=True, chat_template=template, prompt_end=prompt)
    for seed in range(8):
        begin = "Shall I call it?</think>" if thinking else ""
        pieces = made.answer(made.compiled(guide.inputs), begin, seed)
        special = [piece.text for piece in pieces if piece.special]
        assert "".join(special).removeprefix("</think>") == markers
        parser = make_parser(family, "think", tools=TOOLS, prompt_end=prompt)
        found = parse(parser, [pieces])
        assert found.reasoning.strip() == begin.removesuffix("</think>")
        ((called, arguments),) = found.whole
        parameters = SCHEMAS[NAMES[int(called.removeprefix("tool_"))]]
        jsonschema.validate(json.loads(arguments.encode("latin-1").decode()), parameters)
