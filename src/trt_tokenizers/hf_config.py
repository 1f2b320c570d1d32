"""What a Hugging Face config.json says of a model, for every room that needs it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import TokenizerError


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


def text_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config.json, of a model for images too, as that of the model for its text."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, Mapping) else config


def vocab_size(config: Mapping[str, Any]) -> int:
    """Rows of the output layer of the model with this config.json; 0 where it does not say."""
    found = text_model(config).get("vocab_size")
    return found if isinstance(found, int) else 0


_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads")


def splittable(config: Mapping[str, Any], size: int) -> str | None:
    """Why a model cannot be split over *size* ranks, in one line, or None.

    A rank holds whole attention heads and whole key-value heads, the same number of each as every
    other rank. The widths of the other layers need not divide.

    Args:
        config: the model's config.json. One without numbers of heads is not judged.
        size: ranks.
    """
    config = text_model(config)
    heads = next((_counts(config.get(name)) for name in _HEADS if name in config), ())
    if not heads:
        return None
    kv_heads = tuple(count for name in _KV_HEADS for count in _counts(config.get(name))) or heads
    most = math.gcd(*heads, *kv_heads)
    if most % size == 0:
        return None
    works = ", ".join(str(n) for n in range(1, most + 1) if most % n == 0)
    return (
        f"the model has num_attention_heads {_listed(heads)} and num_key_value_heads "
        f"{_listed(kv_heads)}, which cannot be split over a tensor parallel size of {size}; "
        f"sizes that work: {works}"
    )


def _counts(value: object) -> tuple[int, ...]:
    """One number for all layers, or one for each."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(sorted({v for v in values if isinstance(v, int) and v > 0}))


def _listed(counts: tuple[int, ...]) -> str:
    return " and ".join(map(str, counts))
