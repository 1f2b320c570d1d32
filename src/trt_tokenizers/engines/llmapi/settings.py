"""What the `llmapi` engine can be told, without importing what it runs on."""

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

#: Arguments of LLM() that the engine sets itself, and what sets them.
_OURS = {
    "model": "model_dir",
    "_mpi_session": "launch_server --world-size",
    "num_postprocess_workers": "nothing: text is made by postprocessing",
    "postprocess_tokenizer_dir": "nothing: text is made by postprocessing",
}
#: LLM arguments whose product is the number of ranks.
SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")


@dataclasses.dataclass(frozen=True)
class LlmApiSettings:
    """The parameters of the model ``tensorrt_llm`` that this engine knows."""

    model_dir: str = setting(
        dataclasses.MISSING, "folder of a model that LLM() takes, or its name on the hub"
    )
    max_seq_len: int = setting(
        0, "prompt and generated tokens of a sequence at the most; LLM() gets it too"
    )
    llm_args: str = setting("{}", "arguments of TensorRT-LLM's LLM(), as a JSON object")
    loras: tuple[str, ...] = setting((), "adapters that clients may name, as name=folder, …")

    @property
    def arguments(self) -> dict[str, Any]:
        """*llm_args*, with max_seq_len."""
        try:
            found = json.loads(self.llm_args)
        except ValueError as error:
            raise SettingsError(
                f"{WHERE}: llm_args is no JSON: {error}; write an object, "
                '{"tensor_parallel_size": 2}'
            ) from None
        if not isinstance(found, dict):
            raise SettingsError(
                f'{WHERE}: llm_args is {self.llm_args}; write an object, {{"dtype": "bfloat16"}}'
            )
        for name in found:
            if name in _OURS:
                raise SettingsError(f"{WHERE}: llm_args holds {name!r}, set by {_OURS[name]}")
        if self.max_seq_len:
            if found.get("max_seq_len", self.max_seq_len) != self.max_seq_len:
                raise SettingsError(
                    f"{WHERE}: max_seq_len is {self.max_seq_len} and in llm_args "
                    f"{found['max_seq_len']}; make them equal"
                )
            found["max_seq_len"] = self.max_seq_len
        return found

    @property
    def adapters(self) -> dict[str, tuple[int, str]]:
        """Name -> (number from 1 on, folder)."""
        found = {}
        for number, pair in enumerate(self.loras, 1):
            name, equals, folder = pair.partition("=")
            if not (name and equals and folder) or name in found:
                raise SettingsError(
                    f"{WHERE}: loras holds {pair!r}; write name=folder, each name once"
                )
            found[name] = (number, folder)
        return found


def checked(settings: Mapping[str, str]) -> LlmApiSettings:
    """
    Raises:
        SettingsError: a name or a value is wrong.
    """
    parsed = parse(LlmApiSettings, settings, WHERE)
    for name in parsed.arguments:
        # Other names than these may be right in the version that will run.
        near = difflib.get_close_matches(name, LLM_ARGUMENTS, n=1, cutoff=0.8)
        if name not in LLM_ARGUMENTS and near:
            raise SettingsError(
                f"{WHERE}: llm_args holds {name!r}, which no LLM() of 1.x is known to take "
                f"(did you mean {near[0]!r}?)"
            )
    for name, (_, folder) in parsed.adapters.items():
        if not Path(folder).is_dir():
            raise SettingsError(
                f"{WHERE}: loras: there is no folder {folder} for {name!r}; correct it"
            )
    for name in SIZES:
        size = parsed.arguments.get(name, 1)
        if not isinstance(size, int) or size < 1:
            raise SettingsError(f"{WHERE}: llm_args: {name} is {size!r}; it must be 1 or more")
    longest = parsed.arguments.get("max_seq_len", 0)
    if not isinstance(longest, int) or longest < 1:
        raise SettingsError(
            f"{WHERE}: max_seq_len is {longest!r}; say how many tokens a sequence may have"
        )
    return parsed
