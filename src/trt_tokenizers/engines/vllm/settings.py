"""Settings of the engine `vllm`. Does not import vLLM."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.engines.vllm.compat import WHERE, argument_names, installed_version
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.settings import nearest, parse, setting

#: Arguments of vLLM that the engine sets, and the setting that controls them.
_RESERVED = {"model": "model_dir", "tokens_only": "skip_tokenizer_init"}


@dataclasses.dataclass(frozen=True)
class VllmSettings:
    """Parameters of the model ``tensorrt_llm`` for this engine."""

    model_dir: str = setting(
        dataclasses.MISSING, "folder of a model for vLLM, or its name on the hub"
    )
    max_seq_len: int = setting(
        0, "most prompt and generated tokens of a sequence; vLLM's max_model_len"
    )
    engine_args: str = setting("{}", "fields of vLLM's AsyncEngineArgs, as a JSON object")
    loras: tuple[str, ...] = setting((), "adapters for lora_name, as name=folder, …")

    @property
    def arguments(self) -> dict[str, Any]:
        """The fields of AsyncEngineArgs: *engine_args* and max_model_len.

        Raises:
            SettingsError: engine_args is not a JSON object, or sets an argument of the engine.
        """
        try:
            arguments = json.loads(self.engine_args)
        except ValueError as error:
            raise SettingsError(
                f"{WHERE}: engine_args is not JSON: {error}; write an object such as "
                '{"tensor_parallel_size": 2}'
            ) from None
        if not isinstance(arguments, dict):
            raise SettingsError(
                f"{WHERE}: engine_args is {self.engine_args}; write an object such as "
                '{"dtype": "bfloat16"}'
            )
        for name in sorted(_RESERVED.keys() & arguments.keys()):
            raise SettingsError(
                f"{WHERE}: engine_args contains {name!r}, which is set by {_RESERVED[name]}; "
                "remove it"
            )
        if self.max_seq_len:
            if arguments.get("max_model_len", self.max_seq_len) != self.max_seq_len:
                raise SettingsError(
                    f"{WHERE}: max_seq_len is {self.max_seq_len}, but max_model_len in engine_args "
                    f"is {arguments['max_model_len']}; make them equal"
                )
            arguments["max_model_len"] = self.max_seq_len
        return arguments

    @property
    def adapters(self) -> dict[str, tuple[int, str]]:
        """Name -> (number, starting at 1, and folder).

        Raises:
            SettingsError: loras has a wrong form or a name twice.
        """
        found = {}
        for number, pair in enumerate(self.loras, 1):
            name, equals, folder = pair.partition("=")
            if not (name and equals and folder) or name in found:
                raise SettingsError(
                    f"{WHERE}: loras contains {pair!r}; write name=folder, each name once"
                )
            found[name] = (number, folder)
        return found


def checked(settings: Mapping[str, str]) -> VllmSettings:
    """Parse and check *settings*.

    Raises:
        SettingsError: a name or a value is wrong.
    """
    parsed = parse(VllmSettings, settings, WHERE)
    arguments = parsed.arguments
    known = argument_names()  # None on a machine without vLLM
    for name in arguments if known is not None else ():
        if name not in known:  # type: ignore[operator]
            raise SettingsError(
                f"{WHERE}: vLLM {installed_version()} has no engine argument {name!r}"
                f"{nearest(name, known or ())}; correct or remove it in engine_args"
            )
    for name, (_, folder) in parsed.adapters.items():
        if not Path(folder).is_dir():
            raise SettingsError(
                f"{WHERE}: loras: there is no folder {folder} for {name!r}; correct the path"
            )
    if parsed.adapters and not arguments.get("enable_lora"):
        raise SettingsError(f"{WHERE}: loras needs enable_lora; add --engine-arg enable_lora=true")
    return parsed
