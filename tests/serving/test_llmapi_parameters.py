"""Every input of TensorRT-LLM 1.2's ensemble, sent to the ensemble with the engine llmapi: served,
refused with a 400 that names it, or known to have no effect. docs/llmapi.md lists all of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import Server
from trt_tokenizers.repository.schemas import schema

pytestmark = [pytest.mark.triton, pytest.mark.model]

#: Input -> a value that the server accepts.
SERVED: dict[str, Any] = {
    "text_input": "Count: 1, 2, 3, 4,", "max_tokens": 7, "bad_words": ["5"], "stop_words": ["6"],
    "exclude_input_in_output": False, "end_id": 28, "pad_id": 2, "top_k": 3, "top_p": 0.5,
    "temperature": 0.5, "repetition_penalty": 1.5, "min_tokens": 3, "presence_penalty": 1.5,
    "frequency_penalty": 1.5, "seed": 3, "return_log_probs": True, "stream": False,
    "return_perf_metrics": True, "embedding_bias_words": [" the"], "embedding_bias_weights": [50.0],
}  # fmt: skip
BIAS = ("embedding_bias_words", "embedding_bias_weights")  # each needs the other
#: Input -> a value that the server refuses.
REFUSED: dict[str, Any] = {
    "decoder_text_input": "x", "return_context_logits": True,
    "return_generation_logits": True, "beam_width": 2, "prompt_embedding_table": [[0.5]],
    "prompt_table_extra_id": 1, "prompt_vocab_size": 1, "lora_task_id": 1, "lora_weights": [[0.5]],
    "lora_config": [[1, 2, 3]],
    # Served with stream.
    "num_return_sequences": 2,
    # Served with the LLM argument guided_decoding_backend.
    "guided_decoding_guide_type": "regex", "guided_decoding_guide": "a+",
}  # fmt: skip
#: Affects beam search only.
NO_EFFECT: dict[str, Any] = {
    "length_penalty": 2.0, "return_num_input_tokens": True, "return_num_output_tokens": True,
}  # fmt: skip
DOCS = Path(__file__).parents[2] / "docs" / "llmapi.md"
llmapi = pytest.mark.parametrize("server", ["llmapi"], indirect=True)


def test_every_input_of_tensorrt_llm_is_tested_and_documented() -> None:
    inputs = {line.split()[0] for line in schema("1.2")["ensemble"]["inputs"]}
    known = [SERVED, REFUSED, NO_EFFECT]
    assert set().union(*known) == inputs
    assert sum(map(len, known)) == len(inputs), "an input is in two of the tables"
    text = DOCS.read_text()
    assert [name for name in inputs if f"`{name}`" not in text] == []


@llmapi
def test_accepted_inputs_are_served(server: Server) -> None:
    body = {"text_input": SERVED["text_input"], "max_tokens": 12}
    inputs = {**SERVED, **NO_EFFECT}
    bias = {name: inputs.pop(name) for name in BIAS}
    bodies = {name: {name: value} for name, value in inputs.items()} | {"bias": bias}
    with ThreadPoolExecutor(len(bodies) + 1) as pool:
        plain, *others = pool.map(server.ask, [body, *({**body, **b} for b in bodies.values())])
    texts = {name: a["text_output"] for name, a in zip(bodies, others, strict=True)}
    changed = {name for name, text in texts.items() if text != plain["text_output"]}
    # Unit tests of the engine check the fields of the other inputs.
    assert changed >= {"max_tokens", "bad_words", "stop_words", "exclude_input_in_output", "end_id",
                       "repetition_penalty", "frequency_penalty", "bias"}  # fmt: skip


@llmapi
@pytest.mark.parametrize("name", REFUSED)
def test_an_error_names_the_refused_input(server: Server, name: str) -> None:
    body: dict[str, Any] = {"text_input": "a", "max_tokens": 2, name: REFUSED[name]}
    if name.startswith("guided"):
        body |= {other: REFUSED[other] for other in REFUSED if other.startswith("guided")}
    status, answer = server.generate(body)
    assert status == 400, answer
    named = "guided_decoding_guide_type" if name.startswith("guided") else name
    assert named in answer["error"]
