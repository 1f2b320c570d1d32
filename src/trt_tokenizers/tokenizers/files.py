"""The small JSON files beside a tokenizer: what they say of special tokens and templates."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import TokenizerError

#: By pattern: what every type of tokenizer reads, if it is there.
SMALL_FILES = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template*", "additional_chat_templates/*", "generation_config.json", "config.json",
)  # fmt: skip
_ROLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True)
class TokenizerFiles:
    """Facts of one tokenizer folder.

    Attributes:
        directory: the folder.
        config: tokenizer_config.json as it is, or empty.
        special_tokens: role ("bos_token", …) -> text.
        eos_ids: ``eos_token_id`` of generation_config.json, else of config.json.
        chat_template: Jinja source, from chat_template.jinja or tokenizer_config.json.
        vocab_size: rows of the model's output layer as config.json has it, or 0.
    """

    directory: Path
    config: dict[str, Any] = field(default_factory=dict)
    special_tokens: dict[str, str] = field(default_factory=dict)
    eos_ids: tuple[int, ...] = ()
    chat_template: str | None = None
    vocab_size: int = 0

    @classmethod
    def read(cls, directory: Path) -> TokenizerFiles:
        """
        Raises:
            TokenizerError: one of the files is not JSON; names it.
        """
        config = read_json(directory / "tokenizer_config.json")
        tokens = _special_tokens(read_json(directory / "special_tokens_map.json"))
        tokens.update(_special_tokens(config))
        eos = read_json(directory / "generation_config.json").get("eos_token_id")
        model = read_json(directory / "config.json")
        if eos is None:
            eos = model.get("eos_token_id")
        vocab_size = model.get("vocab_size")
        return cls(
            directory=directory,
            config=config,
            special_tokens=tokens,
            eos_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
            chat_template=_chat_template(directory, config),
            vocab_size=vocab_size if isinstance(vocab_size, int) else 0,
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in *path*, or an empty one where there is no such file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}; restore the file") from error
    if not isinstance(data, dict):
        raise TokenizerError(f"{path} holds no JSON object; restore the file")
    return data


def added_tokens(directory: Path) -> dict[str, int]:
    """Token -> id of added_tokens.json, and of tokenizer_config.json's added_tokens_decoder."""
    added: dict[str, int] = read_json(directory / "added_tokens.json")
    decoder = read_json(directory / "tokenizer_config.json").get("added_tokens_decoder", {})
    added.update({entry["content"]: int(i) for i, entry in decoder.items()})
    return added


def _special_tokens(source: dict[str, Any]) -> dict[str, str]:
    found = {}
    for role in _ROLES:
        token = source.get(role)
        if isinstance(token, dict):  # an AddedToken written out
            token = token.get("content")
        if isinstance(token, str):
            found[role] = token
    return found


def _chat_template(directory: Path, config: dict[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name: the one that chats is "default"
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    return template if isinstance(template, str) else None
