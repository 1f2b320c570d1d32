"""A repository whose answer is the last message, with markers of tool calls and of reasoning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from harness import generate_replay

#: The prompt is the last message, and so is the answer. Its text has the signs of the formats.
TEMPLATE = (
    "{% if tools and false %}<tool_call>{{ messages[0].tool_calls }}</tool_call></think>{% endif %}"
    "{{ messages[-1].content }}"
)
END = "<|im_end|>"


def generate_replayed_answers(folder: Path, bpe_dir: Path, *more: str) -> Path:
    """The repository, with *more* arguments of ``generate``."""
    tokenizer = folder / "tokenizer"
    shutil.copytree(bpe_dir, tokenizer)
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    config["chat_template"] = TEMPLATE
    markers = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    config["added_tokens_decoder"] = {
        str(700 + at): {"content": marker, "special": False} for at, marker in enumerate(markers)
    }
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config))
    sizes = ("--engine-parameter", "chunk_sizes=1,3,2,7", "--set", "max_tokens_per_chunk=1")
    return generate_replay(folder / "repo", tokenizer, *sizes, *more)
