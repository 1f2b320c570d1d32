"""Settings of the engine `llmapi`. Does not import TensorRT-LLM."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.engines.llmapi.compat import LLM_ARGUMENTS, WHERE
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.settings import parse, setting

#: Arguments of LLM() that the engine sets, and the setting that controls them.
_RESERVED = {
    "model": "model_dir",
    "_mpi_session": "launch_server --world-size",
    "num_postprocess_workers": "nothing: the model postprocessing makes the text",
    "postprocess_tokenizer_dir": "nothing: the model postprocessing makes the text",
}
#: LLM arguments whose product is the number of ranks.
SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")


@dataclasses.dataclass(frozen=True)
class LlmApiSettings:
    """Parameters of the model ``tensorrt_llm`` for this engine."""

    model_dir: str = setting(
        dataclasses.MISSING, "folder of a model for LLM(), or its name on the hub"
    )
    max_seq_len: int = setting(
        0, "most prompt and generated tokens of a sequence; also passed to LLM()"
    )
    llm_args: str = setting("{}", "arguments of TensorRT-LLM's LLM(), as a JSON object")
    loras: tuple[str, ...] = setting((), "adapters for lora_name, as name=folder, …")

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of LLM(): *llm_args* and max_seq_len.

        Raises:
            SettingsError: llm_args is not a JSON object, or sets an argument of the engine.
        """
        try:
            arguments = json.loads(self.llm_args)
        except ValueError as error:
            raise SettingsError(
                f"{WHERE}: llm_args is not JSON: {error}; write an object such as "
                '{"tensor_parallel_size": 2}'
            ) from None
        if not isinstance(arguments, dict):
            raise SettingsError(
                f"{WHERE}: llm_args is {self.llm_args}; write an object such as "
                '{"dtype": "bfloat16"}'
            )
        for name in sorted(_RESERVED.keys() & arguments.keys()):
            raise SettingsError(
                f"{WHERE}: llm_args contains {name!r}, which is set by {_RESERVED[name]}; remove it"
            )
        if self.max_seq_len:
            if arguments.get("max_seq_len", self.max_seq_len) != self.max_seq_len:
                raise SettingsError(
                    f"{WHERE}: max_seq_len is {self.max_seq_len}, but {arguments['max_seq_len']} "
                    "in llm_args; make them equal"
                )
            arguments["max_seq_len"] = self.max_seq_len
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


def checked(settings: Mapping[str, str]) -> LlmApiSettings:
    """Parse and check *settings*.

    Raises:
        SettingsError: a name or a value is wrong.
    """
    parsed = parse(LlmApiSettings, settings, WHERE)
    for name in parsed.arguments:
        # The version that will run may know further names, so only likely typos are refused.
        near = difflib.get_close_matches(name, LLM_ARGUMENTS, n=1, cutoff=0.8)
        if name not in LLM_ARGUMENTS and near:
            raise SettingsError(
                f"{WHERE}: llm_args contains {name!r}, which LLM() of TensorRT-LLM 1.x does not "
                f"have (did you mean {near[0]!r}?); correct or remove it"
            )
    for name, (_, folder) in parsed.adapters.items():
        if not Path(folder).is_dir():
            raise SettingsError(
                f"{WHERE}: loras: there is no folder {folder} for {name!r}; correct the path"
            )
    for name in SIZES:
        size = parsed.arguments.get(name, 1)
        if not isinstance(size, int) or size < 1:
            raise SettingsError(f"{WHERE}: llm_args: {name} is {size!r}; it must be 1 or more")
    longest = parsed.arguments.get("max_seq_len", 0)
    if not isinstance(longest, int) or longest < 1:
        raise SettingsError(
            f"{WHERE}: max_seq_len is {longest!r}; set the most tokens of a sequence"
        )
    return parsed
