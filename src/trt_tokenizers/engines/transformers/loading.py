"""Libraries, device and model of the `transformers` engine."""

from __future__ import annotations

import os
import re
from typing import Any

from trt_tokenizers.engines.transformers.settings import WHERE, TransformersSettings
from trt_tokenizers.errors import EngineError, SettingsError, one_line
from trt_tokenizers.mpi_environment import Rank

#: Expandable segments let torch reuse freed GPU memory for tensors of any size. Without them the
#: masks of a changing batch fragment the memory: 78 GiB were held where 33 were used. The second
#: name is for torch before 2.9.
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_PROGRESS_EVERY = 2.0  # seconds


def import_libraries() -> None:
    """Import torch and transformers, with torch's allocator configured unless it already is.

    Raises:
        EngineError: one is missing or too old, or transformers lacks a class that this engine uses.
    """
    if not any(os.environ.get(name) for name in _ALLOCATOR):
        os.environ.update(dict.fromkeys(_ALLOCATOR, "expandable_segments:True"))
    try:
        import transformers

        found = transformers.__version__
        if tuple(int(n) for n in re.findall(r"\d+", found)[:2]) < (5, 23):
            raise ImportError(f"transformers is {found}")
        import torch  # noqa: F401

        from trt_tokenizers.engines.transformers import scheduler  # noqa: F401
    except (ImportError, AttributeError) as error:
        raise EngineError(
            f"{WHERE} needs torch and the continuous batching of transformers 5.23: {error}; "
            "with Python 3.11 or 3.12, pip install 'trt-tokenizers[engine]'"
        ) from error


def choose_device(s: TransformersSettings, rank: Rank) -> str:
    """Choose ``cpu`` or ``cuda``.

    Raises:
        SettingsError: device is cuda and there is no GPU, or it is cpu for several ranks with GPUs.
    """
    import torch

    found = torch.cuda.is_available()
    if s.device == "cuda" and not found:
        raise SettingsError(f"{WHERE}: device is 'cuda' but torch sees no GPU; use cpu or auto")
    if s.device == "cpu" and found and rank.size > 1:
        # transformers splits a model over GPUs whenever torch sees any.
        raise SettingsError(
            f"{WHERE}: device is 'cpu' for {rank.size} ranks, but torch sees GPUs; "
            "hide them from all ranks with CUDA_VISIBLE_DEVICES="
        )
    return "cuda" if found and s.device != "cpu" else "cpu"


def load(s: TransformersSettings, rank: Rank, device: str) -> Any:
    """Load the model, or this rank's slice of it, onto its device.

    Raises:
        EngineError: it does not load.
    """
    import torch
    import transformers

    if s.num_threads:
        torch.set_num_threads(s.num_threads)
    if rank.index:
        transformers.utils.logging.disable_progress_bar()
    else:
        transformers.utils.logging.set_tqdm_hook(_in_whole_lines)
    split = {}
    if rank.size > 1:
        split["distributed_config"] = transformers.DistributedConfig(
            tp_size=rank.size, tp_plan="auto"
        )
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            s.model_dir,
            dtype="float32" if (s.dtype, device) == ("auto", "cpu") else s.dtype,
            attn_implementation=s.attn_implementation,
            local_files_only=True,
            trust_remote_code=False,
            **split,
        )
        return model if split else model.to(device)
    except Exception as error:
        raise EngineError(
            f"{WHERE}: the model in {s.model_dir} does not load: {one_line(error)}"
        ) from error


def _in_whole_lines(make: Any, args: tuple[Any, ...], more: dict[str, Any]) -> Any:
    """A progress bar for a log: a line of percent every `_PROGRESS_EVERY`, none if it is fast.

    *make* is tqdm's class.
    """
    make.monitor_interval = 0  # no thread of its own
    every = {"mininterval": _PROGRESS_EVERY, "delay": _PROGRESS_EVERY}
    return make(*args, **{**more, **every, "bar_format": "{desc}: {percentage:3.0f}%\n"})


def max_sequence_length(s: TransformersSettings, config: Any) -> int:
    """The most tokens of a sequence, by the settings and the model's config.

    Raises:
        SettingsError: max_seq_len exceeds the model's limit, or neither gives a limit.
    """
    limit = getattr(config, "max_position_embeddings", None)
    length = s.max_seq_len or limit
    if length is None or (limit is not None and length > limit):
        fix = "set max_seq_len" if limit is None else f"it must be at most {limit}"
        raise SettingsError(
            f"{WHERE}: max_seq_len is {s.max_seq_len} and config.json in {s.model_dir} has "
            f"max_position_embeddings {limit}; {fix}"
        )
    return int(length)
