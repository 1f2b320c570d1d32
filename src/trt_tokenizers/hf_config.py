"""Facts from a model's config.json in Hugging Face's format."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import TokenizerError


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in *path*, or an empty one if the file does not exist.

    Raises:
        TokenizerError: the file cannot be read or holds no JSON object; names it.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}; restore the file") from error
    if not isinstance(data, dict):
        raise TokenizerError(f"{path} is not a JSON object; restore the file")
    return data


def text_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the text model; a multimodal config.json nests it in text_config."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, Mapping) else config


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
