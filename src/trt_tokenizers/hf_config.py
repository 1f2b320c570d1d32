"""Facts from a model's config.json in Hugging Face's format."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import TokenizerError, TrtTokenizersError


def read_text(path: Path) -> str:
    """The text of a regular file.

    Raises:
        OSError: the file cannot be read, is not UTF-8, or is not a regular file: reading a named
            pipe would wait without end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "is not a regular file", str(path))
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise OSError(0, f"is not UTF-8 (byte {error.start})", str(path)) from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, or is nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_mapping(
    path: Path,
    kind: type[TrtTokenizersError],
    fix: str,
    load: Callable[[str], Any] = parse_json,
) -> dict[str, Any]:
    """The JSON object in *path*, or the mapping that another *load* finds there.

    Raises:
        kind: the file cannot be read or holds no mapping; names it and the *fix*.
    """
    try:
        data = load(read_text(path))
        if not isinstance(data, dict):
            raise ValueError("it is not a mapping (JSON object)")
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise kind(f"{path} cannot be read: {what}; {fix}") from None
    return data


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in *path*, or an empty one if the file does not exist.

    Raises:
        TokenizerError: the file cannot be read or holds no JSON object; names it.
    """
    return read_mapping(path, TokenizerError, "restore the file") if path.exists() else {}


_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")


def text_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the text model, which a multimodal config.json nests."""
    for name in _NESTED:
        if isinstance(nested := config.get(name), Mapping):
            return text_model({**config, name: None, **nested})
    return config


def vocab_size(config: Mapping[str, Any]) -> int:
    """Number of rows of the model's output layer; 0 if config.json does not say."""
    rows = text_model(config).get("vocab_size")
    return rows if isinstance(rows, int) else 0


_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads")


def splittable(config: Mapping[str, Any], size: int) -> str | None:
    """The reason why a model cannot be split over *size* ranks, in one line; None if it can.

    All ranks hold the same number of whole attention heads and of whole key-value heads. The widths
    of the other layers need not be divisible.

    Args:
        config: the model's config.json. Without numbers of heads the answer is None.
        size: number of ranks.
    """
    config = text_model(config)
    heads = next((_counts(config.get(name)) for name in _HEADS if name in config), ())
    if not heads:
        return None
    kv_heads = tuple(count for name in _KV_HEADS for count in _counts(config.get(name))) or heads
    largest = math.gcd(*heads, *kv_heads)
    if largest % size == 0:
        return None
    valid = ", ".join(str(n) for n in range(1, largest + 1) if largest % n == 0)
    return (
        f"the model has num_attention_heads {_join(heads)} and num_key_value_heads "
        f"{_join(kv_heads)}, which cannot be split over a tensor parallel size of {size}; "
        f"sizes that work: {valid}"
    )


def _counts(value: object) -> tuple[int, ...]:
    """The distinct numbers in *value*: one for all layers, or a list with one for each layer."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(sorted({v for v in values if isinstance(v, int) and v > 0}))


def _join(counts: tuple[int, ...]) -> str:
    return " and ".join(map(str, counts))
