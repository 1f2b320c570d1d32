"""Settings of the engine `vllm`. Does not import vLLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from trt_tokenizers.engines.arguments import ArgumentSettings
from trt_tokenizers.engines.vllm.compat import WHERE, argument_names, installed_version
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.settings import nearest, parse, setting


@dataclasses.dataclass(frozen=True)
class VllmSettings(ArgumentSettings):
    """Parameters of the model ``tensorrt_llm`` for this engine."""

    where = WHERE
    arguments_name = "engine_args"
    length_name = "max_model_len"
    reserved: ClassVar[Mapping[str, str]] = {
        "model": "model_dir",
        "tokens_only": "skip_tokenizer_init",
    }

    engine_args: str = setting("{}", "fields of vLLM's AsyncEngineArgs, as a JSON object")


def checked(settings: Mapping[str, str]) -> VllmSettings:
    """Parse and check *settings*.

    Raises:
        SettingsError: a name or a value is wrong.
    """
    parsed = parse(VllmSettings, settings, WHERE)
    arguments = parsed.arguments
    known = argument_names()
    for name in arguments:
        if known and name not in known:
            raise SettingsError(
                f"{WHERE}: vLLM {installed_version()} has no engine argument {name!r}"
                f"{nearest(name, known)}; correct or remove it in engine_args"
            )
    if parsed.adapters and not arguments.get("enable_lora"):
        raise SettingsError(f"{WHERE}: loras needs enable_lora; add --engine-arg enable_lora=true")
    return parsed
