"""Settings of the engine `llmapi`. Does not import TensorRT-LLM."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import ClassVar

from trt_tokenizers.engines.arguments import ArgumentSettings
from trt_tokenizers.engines.llmapi.compat import LLM_ARGUMENTS, WHERE
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.settings import parse, setting

#: LLM arguments whose product is the number of ranks.
SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")


@dataclasses.dataclass(frozen=True)
class LlmApiSettings(ArgumentSettings):
    """Parameters of the model ``tensorrt_llm`` for this engine."""

    where = WHERE
    arguments_name = "llm_args"
    length_name = "max_seq_len"
    reserved: ClassVar[Mapping[str, str]] = {
        "model": "model_dir",
        "_mpi_session": "launch_server --world-size",
        "num_postprocess_workers": "nothing: the model postprocessing makes the text",
        "postprocess_tokenizer_dir": "nothing: the model postprocessing makes the text",
    }

    llm_args: str = setting("{}", "arguments of TensorRT-LLM's LLM(), as a JSON object")


def checked(settings: Mapping[str, str]) -> LlmApiSettings:
    """Parse and check *settings*.

    Raises:
        SettingsError: a name or a value is wrong.
    """
    parsed = parse(LlmApiSettings, settings, WHERE)
    arguments, _ = parsed.arguments, parsed.adapters
    for name in arguments:
        # The version that will run may know further names, so only likely typos are refused.
        near = difflib.get_close_matches(name, LLM_ARGUMENTS, n=1, cutoff=0.8)
        if name not in LLM_ARGUMENTS and near:
            raise SettingsError(
                f"{WHERE}: llm_args contains {name!r}, which LLM() of TensorRT-LLM 1.x does not "
                f"have (did you mean {near[0]!r}?); correct or remove it"
            )
    for name in SIZES:
        size = arguments.get(name, 1)
        if not isinstance(size, int) or size < 1:
            raise SettingsError(f"{WHERE}: llm_args: {name} is {size!r}; it must be 1 or more")
    longest = arguments.get("max_seq_len", 0)
    if not isinstance(longest, int) or longest < 1:
        raise SettingsError(
            f"{WHERE}: max_seq_len is {longest!r}; set the most tokens of a sequence"
        )
    return parsed
