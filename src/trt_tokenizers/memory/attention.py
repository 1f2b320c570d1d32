"""The KV cache's geometry: what each attention layer of a model stores for a token.

It comes from config.json, under any of the names that model families use.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import RepositoryError

#: Names of one value, most specific first.
HIDDEN = ("hidden_size", "n_embd", "d_model", "model_dim")
HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads", "num_query_heads")
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_transformer_layers")
_KV_HEADS = (
    "num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "kv_n_heads",
    "num_key_value_heads_per_layer", "multi_query_group_num", "num_query_groups", "n_kv_head",
)  # fmt: skip
_HEAD_SIZE = ("head_dim", "kv_channels", "head_size", "d_kv", "attention_head_dim", "d_head")
#: Names of flags for one key-value head.
_MULTI_QUERY = ("multi_query", "multi_query_attention")
#: Families with as many key-value heads as heads, whose config.json does not say so.
_MULTI_HEAD = {
    "baichuan", "biogpt", "bloom", "codegen", "ctrl", "falcon", "gpt2", "gpt_bigcode", "gpt_neo",
    "gpt_neox", "gpt_neox_japanese", "gptj", "gpt-sw3", "internlm", "llama", "mistral", "mpt",
    "olmo", "openai-gpt", "opt", "persimmon", "phi", "phi-msft", "qwen", "qwen2", "stablelm",
    "xglm",
}  # fmt: skip
#: Lists with one entry for each layer, or a pattern that repeats, and what their entries mean.
_LAYER_LISTS = (
    "layer_types", "layers_block_type", "hybrid_override_pattern", "attn_type_list",
    "_block_types", "block_types", "attention_layers",
)  # fmt: skip
_FULL = ("full_attention", "attention", "global", "full", "hybrid", "*", "G", 1)
_SLIDING = ("sliding_attention", "chunked_attention", "local", "sliding", "L")
#: Families whose older config.json gives a window, but not which layers have it: every nth has not.
_PERIODS = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4}
#: Names of the settings of layers without attention.
_RECURRENT = ("mamba", "ssm", "rwkv", "linear_attn", "linear_conv")


@dataclass(frozen=True)
class KvLayers:
    """Layers that store the same for each token.

    Attributes:
        layers: their number.
        heads: key-value heads, which tensor parallelism divides.
        size: numbers for each head and token: key and value together.
        window: tokens that they keep; 0: all.
    """

    layers: int
    heads: int
    size: int
    window: int = 0


def first(config: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The value of the first of *names* in *config* that has one; None if none has."""
    return next((config[name] for name in names if config.get(name) is not None), None)


def number(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """As `first`, as a number.

    Raises:
        KeyError: none of them is there.
    """
    value = first(config, names)
    if value is None:
        raise KeyError(names[0])
    return max(value) if isinstance(value, list) else int(value)


def kv_layers(config: Mapping[str, Any], where: Path) -> tuple[KvLayers, ...]:
    """The attention layers of a model, those that are equal together.

    Args:
        config: config.json of a checkpoint (of its text model), or an engine's pretrained_config.
        where: its file, for errors.

    Raises:
        KeyError: the number of layers or heads is missing.
        RepositoryError: the number of key-value heads, or which layers have attention, is unknown.
    """
    config = {**(config.get("attn_config") or {}), **config}  # MPT and DBRX nest it
    counts: Counter[tuple[int, int, int]] = Counter()
    try:
        for at, window in enumerate(_windows(config, number(config, LAYERS))):
            if window is not None:
                heads, size = _heads_and_size(config, at, sliding=window > 0)
                counts[heads, size, window] += 1
    except _UnknownError as error:
        raise RepositoryError(f"{where} does not say {error}") from None
    if not counts:
        raise RepositoryError(f"{where}: the model has no layers with attention, so no KV cache")
    return tuple(KvLayers(count, *layer) for layer, count in counts.items())


class _UnknownError(Exception):
    """What config.json does not say, and the fix."""


def _windows(config: Mapping[str, Any], layers: int) -> list[int | None]:
    """For each layer its window in tokens; 0: all tokens; None: it has no cache of its own."""
    window = _window(config)
    pattern = config.get("sliding_window_pattern") or _PERIODS.get(_family(config))
    listed = first(config, _LAYER_LISTS) or (pattern if isinstance(pattern, str) else None)
    windows: list[int | None]
    if listed:
        # Gemma's recurrent models: all attention is local.
        full = window if "attention_window_size" in config else 0
        meaning: dict[Any, int] = {
            **dict.fromkeys(_FULL, full),
            **dict.fromkeys(_SLIDING, window),
        }
        repeated = itertools.cycle(each for each in listed if each != "|")
        windows = [meaning.get(each) for each in itertools.islice(repeated, layers)]
    elif (indices := _attention_layers(config, layers)) is not None:
        windows = [window if at in indices else None for at in range(layers)]
    elif local := first(config, ("hybrid_layer_pattern", "no_rope_layers")):
        windows = [window if flag else 0 for flag in local]
    elif window and pattern:
        windows = [window if (at + 1) % int(pattern) else 0 for at in range(layers)]
    else:
        start = int(config.get("max_window_layers") or 0)  # Qwen: the layers before have none
        windows = [window if at >= start else 0 for at in range(layers)]
    if shared := int(config.get("num_kv_shared_layers") or 0):
        windows[-shared:] = [None] * shared
    if config.get("use_cla") and (factor := int(config.get("cla_share_factor") or 1)) > 1:
        windows = [each if at % factor == 0 else None for at, each in enumerate(windows)]
    return windows


def _family(config: Mapping[str, Any]) -> str:
    return str(config.get("model_type") or "")


def _window(config: Mapping[str, Any]) -> int:
    """The window of the layers that have one; 0: there are none."""
    if config.get("use_sliding_window") is False:
        return 0
    return int(
        first(config, ("sliding_window", "sliding_window_size", "attention_chunk_size",
                       "attention_window_size", "window_size")) or 0
    )  # fmt: skip


def _attention_layers(config: Mapping[str, Any], layers: int) -> Collection[int] | None:
    """Numbers of the layers with attention; None if all have it."""
    listed: list[int] | None = first(
        config, ("attn_layer_indices", "full_attn_idxs", "hybrid_layer_ids")
    )
    if listed is not None:
        return listed
    if counted_from_1 := (config.get("linear_attn_config") or {}).get("full_attn_layers"):
        return [at - 1 for at in counted_from_1]
    if period := first(config, ("attn_layer_period", "full_attention_interval")):
        return range(int(config.get("attn_layer_offset", period - 1)), layers, period)
    if blocks := config.get("block_configs"):
        attention = [block.get("attention") or {} for block in blocks]
        return [at for at, each in enumerate(attention) if each.get("n_heads_in_group")]
    if _family(config) != "falcon_h1" and any(name.startswith(_RECURRENT) for name in config):
        raise _UnknownError("which layers have attention; add layer_types")
    return None


def _heads_and_size(config: Mapping[str, Any], at: int, *, sliding: bool) -> tuple[int, int]:
    """`KvLayers.heads` and `KvLayers.size` of layer *at*."""
    if config.get("kv_lora_rank"):  # multi-head latent attention: one vector for all heads
        return 1, int(config["kv_lora_rank"]) + int(config.get("qk_rope_head_dim") or 0)
    heads = _in_layer(first(config, HEADS), at)
    size = first(config, _HEAD_SIZE) or number(config, HIDDEN) // heads
    value_size = config.get("v_head_dim") or size
    if sliding:
        size = config.get("swa_head_dim") or size
        value_size = config.get("swa_v_head_dim") or value_size
        own = config.get("swa_num_key_value_heads")
    else:
        size = config.get("global_head_dim") or size
        value_size = config.get("global_head_dim") or value_size
        own = config.get("num_global_key_value_heads")
    return int(own or _kv_heads(config, heads, at)), int(size) + int(value_size)


def _kv_heads(config: Mapping[str, Any], heads: int, at: int) -> int:
    if blocks := config.get("block_configs"):
        return heads // int(blocks[at]["attention"]["n_heads_in_group"])
    new_falcon = config.get("new_decoder_architecture")
    one = any(config.get(name) is True for name in _MULTI_QUERY) and not new_falcon
    if (one and "multi_query_group_num" not in config) or (
        config.get("attn_type") == "multiquery_attention"  # MPT
    ):
        return 1
    # Without these flags Falcon and ChatGLM ignore their numbers of key-value heads.
    ignored = (_family(config) == "falcon" and not new_falcon) or (
        config.get("multi_query_attention") is False
    )
    found = None if ignored else first(config, _KV_HEADS)
    if found is not None:
        return _in_layer(found, at)
    if ignored or "multi_query" in config or _family(config) in _MULTI_HEAD:
        return heads
    raise _UnknownError("how many key-value heads the model has; add num_key_value_heads")


def _in_layer(value: Any, at: int) -> int:
    """The value of layer *at*, from a number or a list with one for each layer."""
    return int(value[at] if isinstance(value, list) else value)
