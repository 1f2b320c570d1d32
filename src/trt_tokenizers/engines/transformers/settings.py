"""Settings of the engine `transformers`. Imports neither torch nor transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from trt_tokenizers.errors import SettingsError
from trt_tokenizers.settings import parse, setting

WHERE = "engine 'transformers'"
_MAX_BATCH_TOKENS = {"cpu": 512, "cuda": 2048}


@dataclasses.dataclass(frozen=True)
class TransformersSettings:
    """Parameters of the model ``tensorrt_llm`` for this engine."""

    model_dir: str = setting(
        dataclasses.MISSING, "folder of a Hugging Face model: config.json and weights"
    )
    dtype: str = setting(
        "auto", "float32, float16, bfloat16 or auto: the checkpoint's on a GPU, float32 on a CPU"
    )
    device: str = setting("auto", "cpu, cuda or auto: a GPU if there is one")
    max_seq_len: int = setting(
        0, "most prompt and generated tokens of a sequence; 0: the limit of the model"
    )
    max_batch_size: int = setting(
        0, "sequences generated at once, others wait; 0: 32 on a CPU, 128 on a GPU"
    )
    kv_cache_tokens: int = setting(
        0,
        "tokens that the KV cache holds for all sequences together; 0: on a GPU by "
        "kv_cache_free_gpu_mem_fraction, on a CPU enough for max_batch_size sequences, but at most "
        "1 GiB and a quarter of the free memory",
    )
    kv_cache_free_gpu_mem_fraction: float = setting(
        0.9, "share of the GPU memory left free by the model that the KV cache takes"
    )
    num_threads: int = setting(0, "CPU threads of one operation; 0: torch's default")
    attn_implementation: str = setting(
        "sdpa", "as transformers names it: sdpa, eager, flash_attention_2, flash_attention_3"
    )

    def batch_size(self, device: str) -> int:
        """Sequences generated at once on *device*. Without flash attention each sequence attends to
        the whole batch through a mask, so a larger batch slows all of them down."""
        return self.max_batch_size or {"cpu": 32, "cuda": 128}[device]

    def batch_tokens(self, device: str) -> int:
        """Tokens of one forward pass on *device*. Longer prompts are split over several passes, so
        other sequences get tokens in between."""
        return max(_MAX_BATCH_TOKENS[device], self.batch_size(device))

    @property
    def flash(self) -> bool:
        """Whether attention needs neither a mask nor a copy of key-value heads for each head."""
        return "flash" in self.attn_implementation

    @property
    def page_size(self) -> int:
        """Tokens in a page of the KV cache; the attention kernels require these values."""
        return 256 if self.flash else 32


def checked(settings: Mapping[str, str]) -> TransformersSettings:
    """Parse and check *settings*.

    Raises:
        SettingsError: a name or a value is wrong, or model_dir holds no model.
    """
    s = parse(TransformersSettings, settings, WHERE)
    dtypes = ("auto", "float32", "float16", "bfloat16")
    for name, known in (("dtype", dtypes), ("device", ("auto", "cpu", "cuda"))):
        if (value := getattr(s, name)) not in known:
            raise SettingsError(
                f"{WHERE}: {name} is {value!r}; it must be one of {', '.join(known)}"
            )
    for name in ("max_seq_len", "max_batch_size", "kv_cache_tokens", "num_threads"):
        if (value := getattr(s, name)) < 0:
            raise SettingsError(f"{WHERE}: {name} is {value}; it must be at least 0")
    if not 0 < (value := s.kv_cache_free_gpu_mem_fraction) <= 1:
        raise SettingsError(
            f"{WHERE}: kv_cache_free_gpu_mem_fraction is {value:g}; it must be above 0 and at most "
            "1"
        )
    if not (Path(s.model_dir) / "config.json").is_file():
        raise SettingsError(
            f"{WHERE}: there is no config.json in model_dir {s.model_dir!r}; give the folder of a "
            "Hugging Face model"
        )
    return s
