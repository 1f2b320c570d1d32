"""The small JSON files of a tokenizer folder: special tokens, EOS ids and chat templates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.hf_config import read_json, vocab_size

#: Patterns of the files that every type of tokenizer reads if they exist.
SMALL_FILES = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template*", "additional_chat_templates/*", "generation_config.json", "config.json",
)  # fmt: skip
_ROLES = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip


@dataclass(frozen=True)
class AddedToken:
    """A token that the JSON files add to the model file's vocabulary, or describe further.

    Attributes:
        text: the token as written in a text.
        id: None if no file gives it.
        special: omitted from answers together with the special tokens.
        lstrip, rstrip: it absorbs the whitespace before it, after it.
        normalized: matched in the normalized text, not in the original one.
        single_word: not matched inside a word.
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
    """Facts about one tokenizer folder.

    Attributes:
        directory: the folder.
        config: content of tokenizer_config.json, or empty.
        special_tokens: role ("bos_token", …) or the files' own name ("think_token") -> text.
        added: tokens of added_tokens_decoder, added_tokens.json and the special tokens' names.
        eos_ids: ``eos_token_id`` of generation_config.json, else of config.json.
        chat_template: Jinja source, or several by name, from chat_template.jinja and
            additional_chat_templates, else from tokenizer_config.json.
        vocab_size: rows of the model's output layer according to config.json, or 0.
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
        """Read the folder's small JSON files, if they exist.

        Raises:
            TokenizerError: a file is not JSON, or has an invalid value; names it.
        """
        path = directory / "tokenizer_config.json"
        config = read_json(path)
        a_map = directory / "special_tokens_map.json"
        sources = {a_map: read_json(a_map), path: config}
        if "added_tokens_decoder" not in config:  # older folders: the map takes precedence
            sources = dict(reversed(sources.items()))
        roles = {role: e for data in sources.values() for role, e in _roles(data).items()}
        tokens = {role: entry["content"] for role, entry in roles.items()}
        model = read_json(directory / "config.json")
        return cls(
            directory=directory,
            config=config,
            special_tokens=tokens,
            added=_added_tokens(path, config, [*roles.values(), *_more_special(sources)]),
            eos_ids=_eos_ids(directory, model),
            chat_template=_chat_template(path, config),
            vocab_size=vocab_size(model),
        )


def files_like(directory: Path, pattern: str) -> list[Path]:
    """The files in *directory* that match, sorted; folders and broken links do not count."""
    return sorted(path for path in directory.glob(pattern) if path.is_file())


def _invalid(path: Path, name: str, value: object, expected: str) -> TokenizerError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
    return TokenizerError(f"{path}: {name} is {shown}; it must be {expected}")


def _eos_ids(directory: Path, model: dict[str, Any]) -> tuple[int, ...]:
    path = directory / "generation_config.json"
    for source, config in ((path, read_json(path)), (directory / "config.json", model)):
        found = config.get("eos_token_id")
        if found is not None:
            ids = found if isinstance(found, list) else [found]
            ids = [token_id for token_id in ids if token_id is not None]
            if any(type(token_id) is not int for token_id in ids):
                raise _invalid(source, "eos_token_id", found, "an id or a list of ids")
            if ids:
                return tuple(ids)
    return ()


def _numbered(path: Path, config: dict[str, Any]) -> dict[str, tuple[int, dict[str, Any]]]:
    """Text -> id and flags of each token to which a file assigns an id."""
    decoder = config.get("added_tokens_decoder") or {}
    expected = '{id: {"content": …}}'
    if not isinstance(decoder, dict):
        raise _invalid(path, "added_tokens_decoder", decoder, expected)
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for key, entry in decoder.items():
        if not key.isdecimal() or not isinstance(entry, dict) or _entry(entry) is None:
            raise _invalid(path, "added_tokens_decoder", {key: entry}, expected)
        found[entry["content"]] = (int(key), entry)
    path = path.with_name("added_tokens.json")
    for text, token_id in read_json(path).items():
        if type(token_id) is not int:
            raise _invalid(path, repr(text), token_id, "an id")
        found[text] = (token_id, {})
    return found


def _added_tokens(
    path: Path, config: dict[str, Any], special: Iterable[dict[str, Any]]
) -> tuple[AddedToken, ...]:
    """The tokens with an id, in order of it, and then the other *special* ones."""
    named: dict[str, dict[str, Any]] = {}
    for entry in special:
        if len(entry) > 1 or entry["content"] not in named:  # an object has flags, a string none
            named[entry["content"]] = entry
    numbered = sorted(_numbered(path, config).items(), key=lambda item: item[1][0])
    found = {text: _added(text, i, entry, text in named) for text, (i, entry) in numbered}
    for text, entry in named.items():
        found.setdefault(text, _added(text, None, entry, special=True))
    return tuple(found.values())


def _added(text: str, token_id: int | None, entry: dict[str, Any], special: bool) -> AddedToken:
    special = special or bool(entry.get("special"))
    flags = {flag: bool(entry.get(flag)) for flag in ("lstrip", "rstrip", "single_word")}
    normalized = bool(entry.get("normalized", not special))
    return AddedToken(text, token_id, special, normalized=normalized, **flags)


def _roles(source: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Role or other name of a token -> its entry."""
    names = [name for name in source if name.endswith("_token")]
    extra = source.get("extra_special_tokens")  # transformers 5: a list, or names and tokens
    found = {name: source[name] for name in sorted(names, key=_by_role)}
    found |= extra if isinstance(extra, dict) else {}
    entries = {name: _entry(token) for name, token in found.items()}
    return {name: entry for name, entry in entries.items() if entry is not None}


def _by_role(name: str) -> int:
    """In the order in which transformers adds them."""
    return _ROLES.index(name) if name in _ROLES else len(_ROLES)


def _more_special(sources: Mapping[Path, dict[str, Any]]) -> list[dict[str, Any]]:
    """Special tokens without a role; transformers 5 renamed the list."""
    found = []
    for path, source in sources.items():
        for name in ("additional_special_tokens", "extra_special_tokens"):
            tokens = source.get(name) or []
            if not isinstance(tokens, (dict, list)):
                raise _invalid(path, name, tokens, "a list of tokens")
            listed = tokens.values() if isinstance(tokens, dict) else tokens
            found += [entry for token in listed if (entry := _entry(token)) is not None]
    return found


def _entry(token: object) -> dict[str, Any] | None:
    """*token* as an object with its content and flags; None if it is none."""
    if isinstance(token, str):
        return {"content": token}
    if isinstance(token, dict) and isinstance(token.get("content"), str):
        return token
    return None


def _chat_template(path: Path, config: dict[str, Any]) -> str | dict[str, str] | None:
    """The chat templates, as in transformers: files replace those of tokenizer_config.json."""
    own = files_like(path.parent, "chat_template.jinja")
    more = files_like(path.parent, "additional_chat_templates/*.jinja")
    files = {"default": own[0]} if own else {}
    files |= {file.name.removesuffix(".jinja"): file for file in more}
    if files:
        read = {name: _template(file) for name, file in files.items()}
        return read["default"] if list(read) == ["default"] else read
    found = config.get("chat_template")
    if found is None or isinstance(found, str):
        return found
    expected = 'Jinja, {name: Jinja}, or a list of {"name": …, "template": …}'
    if isinstance(found, dict):
        found = [{"name": name, "template": source} for name, source in found.items()]
    if not isinstance(found, list):
        raise _invalid(path, "chat_template", found, expected)
    named: dict[str, str] = {}
    for entry in found:
        parts = entry if isinstance(entry, dict) else {}
        name, source = parts.get("name"), parts.get("template")
        if not isinstance(name, str) or not isinstance(source, str):
            raise _invalid(path, "chat_template has an entry that", entry, expected)
        named[name] = source
    return named


def _template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}; save it as UTF-8") from error
