"""The small JSON files beside a tokenizer: what they say of special tokens and templates."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.ranks import text_model

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
class AddedToken:
    """A token that the JSON files add to the model file's, or say more about.

    Attributes:
        text: as it is written out in a text.
        id: None where no file says.
        special: left out of answers with the special tokens.
        lstrip, rstrip: it swallows the blanks before it, after it.
        normalized: found in the normalized text, not in the text as it came.
        single_word: not found inside a word.
    """

    text: str
    id: int | None
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False


@dataclass(frozen=True)
class TokenizerFiles:
    """Facts of one tokenizer folder.

    Attributes:
        directory: the folder.
        config: tokenizer_config.json as it is, or empty.
        special_tokens: role ("bos_token", …) -> text.
        added: tokens of added_tokens_decoder, added_tokens.json and the special tokens' names.
        eos_ids: ``eos_token_id`` of generation_config.json, else of config.json.
        chat_template: Jinja source, or several by name, from chat_template.jinja and
            additional_chat_templates, else from tokenizer_config.json.
        vocab_size: rows of the model's output layer as config.json has it, or 0.
    """

    directory: Path
    config: dict[str, Any] = field(default_factory=dict)
    special_tokens: dict[str, str] = field(default_factory=dict)
    added: tuple[AddedToken, ...] = ()
    eos_ids: tuple[int, ...] = ()
    chat_template: str | dict[str, str] | None = None
    vocab_size: int = 0

    @classmethod
    def read(cls, directory: Path) -> TokenizerFiles:
        """
        Raises:
            TokenizerError: one of the files is not JSON; names it.
        """
        config = read_json(directory / "tokenizer_config.json")
        sources = [read_json(directory / "special_tokens_map.json"), config]
        if "added_tokens_decoder" not in config:  # older folders: the map has the last word
            sources.reverse()
        tokens = {role: text for source in sources for role, text in _roles(source).items()}
        eos = read_json(directory / "generation_config.json").get("eos_token_id")
        model = read_json(directory / "config.json")
        if eos is None:
            eos = model.get("eos_token_id")
        return cls(
            directory=directory,
            config=config,
            special_tokens=tokens,
            added=_added_tokens(directory, config, [*tokens.values(), *_more_special(sources)]),
            eos_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
            chat_template=_chat_template(directory, config),
            vocab_size=vocab_size(model),
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


def vocab_size(config: dict[str, Any]) -> int:
    """Rows of the output layer of the model with this config.json; 0 where it does not say."""
    found = text_model(config).get("vocab_size")
    return found if isinstance(found, int) else 0


def _added_tokens(
    directory: Path, config: dict[str, Any], special: Iterable[str]
) -> tuple[AddedToken, ...]:
    special = list(dict.fromkeys(special))
    found: dict[str, AddedToken] = {}
    numbered = {
        **{e["content"]: (int(i), e) for i, e in config.get("added_tokens_decoder", {}).items()},
        **{text: (i, {}) for text, i in read_json(directory / "added_tokens.json").items()},
    }
    for text, (token_id, entry) in sorted(numbered.items(), key=lambda item: item[1][0]):
        is_special = bool(entry.get("special")) or text in special
        flags = {flag: bool(entry.get(flag)) for flag in ("lstrip", "rstrip", "single_word")}
        normalized = bool(entry.get("normalized", not is_special))
        found[text] = AddedToken(text, token_id, is_special, normalized=normalized, **flags)
    for text in special:
        found.setdefault(text, AddedToken(text, None, special=True))
    return tuple(found.values())


def _roles(source: dict[str, Any]) -> dict[str, str]:
    named = {role: _text(source.get(role)) for role in _ROLES}
    return {role: text for role, text in named.items() if text is not None}


def _more_special(sources: Iterable[dict[str, Any]]) -> list[str]:
    """Special tokens without a role; transformers 5 has another name for the list."""
    found = []
    for source in sources:
        for name in ("additional_special_tokens", "extra_special_tokens"):
            tokens = source.get(name) or []
            listed = tokens.values() if isinstance(tokens, dict) else tokens
            found += [text for token in listed if (text := _text(token)) is not None]
    return found


def _text(token: object) -> str | None:
    if isinstance(token, dict):  # an AddedToken written out
        token = token.get("content")
    return token if isinstance(token, str) else None


def _chat_template(directory: Path, config: dict[str, Any]) -> str | dict[str, str] | None:
    """As in transformers: files hide what tokenizer_config.json has, also where they have less."""
    paths = {"default": directory / "chat_template.jinja"}
    paths = {name: path for name, path in paths.items() if path.is_file()}
    more = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    paths |= {path.name.removesuffix(".jinja"): path for path in more}
    if paths:
        found = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
        return found["default"] if list(found) == ["default"] else found
    template = config.get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}
    return template if isinstance(template, str) else None
