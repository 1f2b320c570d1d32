"""Real servers that several files share; tests/conftest.py runs these files on one worker."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from applicable import needs_engine
from harness import VLLM_ON_A_CPU, Server, free_ports, generate, launched, with_double

#: From scripts/verify_llmapi: test only the engine llmapi, perhaps on the real TensorRT-LLM.
VERIFY: dict[str, Any] = json.loads(os.environ.get("TRT_TOKENIZERS_VERIFY", "{}"))
# The usual outputs, and the one that num_return_sequences needs.
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
    """A server for each engine; llmapi runs on a double of TensorRT-LLM 1.x."""
    if request.param == "vllm":
        pytest.importorskip("vllm", reason="not applicable: see scripts/test --vllm")
    else:
        needs_engine()  # the double generates with it as well
    folder = tmp_path_factory.mktemp("smollm2")
    llm_args = [f"--llm-arg={pair}" for pair in VERIFY.get("llm_args", ())]
    model = ("--engine", request.param, "--model", str(smollm2), *llm_args)
    if request.param == "vllm":
        model += (*VLLM_ON_A_CPU, "--engine-arg", "skip_tokenizer_init=false")  # for guides
    repository = generate(folder / "repo", *model, "--outputs", _OUTPUTS)
    if request.param == "llmapi" and VERIFY.get("double", True):
        with_double(repository)
    # Tests that ask preprocessing alone leave contexts; the stop waits for them, this long only.
    ready_s = VERIFY.get("ready_s", 180)
    with launched(repository, folder, "--drain-timeout", "8", ready_s=ready_s) as server:
        yield server


@pytest.fixture(scope="session")
def openai_port() -> int:
    """Of the front end of `generated`."""
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def generated(
    openai_port: int, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """SmolLM2 on the engine transformers, as `generate` makes it without an option."""
    needs_engine()
    folder = tmp_path_factory.mktemp("generated")
    options = ("--drain-timeout", "8", "--openai-port", str(openai_port))
    with launched(generate(folder / "repo", "--model", str(smollm2)), folder, *options) as server:
        yield server
