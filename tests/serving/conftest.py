"""One real server for all tests of a configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from applicable import needs_engine
from harness import VLLM_ON_A_CPU, Server, generate, launched, with_double

#: Of scripts/verify_llmapi: the one engine to look at, perhaps on the real TensorRT-LLM.
VERIFY: dict[str, Any] = json.loads(os.environ.get("TRT_TOKENIZERS_VERIFY", "{}"))
# The usual ones, and what num_return_sequences needs.
_OUTPUTS = (
    "text_output,finish_reason,num_input_tokens,num_output_tokens,cum_log_probs,output_log_probs,"
    "sequence_index"
)


@pytest.fixture(
    scope="session", params=["llmapi"] if VERIFY else ["transformers", "llmapi", "vllm"]
)
def server(
    request: pytest.FixtureRequest, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Of each engine; that of TensorRT-LLM 1.x runs on its double."""
    if request.param == "vllm":
        pytest.importorskip("vllm", reason="not applicable: see scripts/test --vllm")
    else:
        needs_engine()  # the double generates with it too
    folder = tmp_path_factory.mktemp("smollm2")
    llm_args = [f"--llm-arg={pair}" for pair in VERIFY.get("llm_args", ())]
    model = ("--engine", request.param, "--model", str(smollm2), *llm_args)
    if request.param == "vllm":
        model += VLLM_ON_A_CPU
    repository = generate(folder / "repo", *model, "--outputs", _OUTPUTS)
    if request.param == "llmapi" and VERIFY.get("double", True):
        with_double(repository)
    # A test leaves a context behind, which nobody takes and a longer stop would wait for.
    ready_s = VERIFY.get("ready_s", 180)
    with launched(repository, folder, "--drain-timeout", "8", ready_s=ready_s) as server:
        yield server
