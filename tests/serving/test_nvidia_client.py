"""What NVIDIA's own client scripts get from a generated repository with SmolLM2.

test_adopted asks adopted repositories with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from harness import Server
from nvidia_client import Answer, EngineClient, TextClient, text_shapes
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.registry import create

pytestmark = [pytest.mark.triton, pytest.mark.model]

PROMPTS = ("The capital of France is", "Once upon a time")
#: Newest scripts; a generated repository has the names and types of this version.
NEWEST = "1.2"
#: Greedy, also where a temperature alone means sampling.
GREEDY = {"temperature": 0.0}


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Tokenizer:
    return create(TokenizerSettings(str(smollm2)))


@pytest.fixture(scope="module")
def answers(generated: Server) -> list[str]:
    """Each prompt's greedy answer of 12 tokens, by HTTP and without the prompt."""
    return [
        generated.ask({"text_input": prompt, "max_tokens": 12})["text_output"] for prompt in PROMPTS
    ]


def ask(server: Server, *prompts: str, **options: Any) -> Answer:
    client = TextClient(server.grpc, NEWEST)
    return client.ask(*prompts, **{"output_len": 12, **GREEDY, **options})


def test_generated_stream_has_no_prompt(generated: Server, answers: list[str]) -> None:
    """The script sends exclude_input_in_output false and expects the new text only."""
    answer = ask(generated, *PROMPTS, streaming=True)
    assert answer.texts == [[text] for text in answers]
    assert len(answer.responses) > 4
    assert text_shapes(answer) == {(1,)}


def test_generated_whole_answer_begins_with_the_prompt(
    generated: Server, answers: list[str]
) -> None:
    answer = ask(generated, *PROMPTS)
    assert answer.texts == [[p + text] for p, text in zip(PROMPTS, answers, strict=True)]
    assert text_shapes(answer) == {(1,)}


@pytest.mark.parametrize("streams", [False, True])
def test_generated_prompt_excluded(generated: Server, answers: list[str], streams: bool) -> None:
    answer = ask(generated, *PROMPTS, streaming=streams, exclude_input_in_output=True)
    assert answer.texts == [[text] for text in answers]


def test_generated_batch_inputs(generated: Server, answers: list[str]) -> None:
    """Each response of a stream holds one row's text; batch_index [1, 1] says whose."""
    answer = ask(
        generated, *PROMPTS, streaming=True, batch_inputs=True, exclude_input_in_output=True
    )
    assert answer.texts == [[text] for text in answers]
    assert text_shapes(answer) == {(1,)}
    assert {arrays["batch_index"].shape for arrays in answer.responses} == {(1, 1)}


def test_generated_several_sequences(generated: Server, answers: list[str]) -> None:
    answer = ask(generated, PROMPTS[0], streaming=True, num_return_sequences=2)
    assert answer.texts == [[answers[0]] * 2]
    assert {arrays["sequence_index"].shape for arrays in answer.responses} == {(1, 1)}


def test_generated_log_probs(generated: Server) -> None:
    """[1, beams] and [1, beams, tokens], as the C++ backend gives them."""
    answer = ask(generated, PROMPTS[0], return_log_probs=True, exclude_input_in_output=True)
    (arrays,) = answer.responses
    assert arrays["cum_log_probs"].shape == (1, 1)
    assert arrays["output_log_probs"].shape == (1, 1, 12)
    assert arrays["cum_log_probs"].item() == pytest.approx(arrays["output_log_probs"].sum())


def test_generated_stop_and_bad_words(generated: Server, answers: list[str]) -> None:
    word = answers[0].split()[2]
    answer = ask(generated, PROMPTS[0], streaming=True, stop_words=(word,), request_id="one")
    assert answer.texts == [[answers[0].split(word)[0]]]
    answer = ask(generated, PROMPTS[0], streaming=True, bad_words=(f" {word}",))
    assert word not in answer.texts[0][0]


def test_generated_end_id(generated: Server, tokenizer: Tokenizer, answers: list[str]) -> None:
    ids = tokenizer.encode(PROMPTS[0] + answers[0])[len(tokenizer.encode(PROMPTS[0])) :]
    answer = ask(generated, PROMPTS[0], streaming=True, end_id=ids[4], pad_id=0)
    assert answer.texts == [[tokenizer.decode(ids[:4])]]


def test_generated_refuses_logits_by_name(generated: Server) -> None:
    """Sent without naming the output, as scripts before 0.17 do; Triton itself checks names."""
    client = TextClient(generated.grpc, NEWEST)
    client.named = False
    with pytest.raises(InferenceServerException, match="return_context_logits") as refused:
        client.ask(PROMPTS[0], return_context_logits=True)
    assert "unexpected inference input" not in str(refused.value)


def test_generated_engine(generated: Server, tokenizer: Tokenizer, answers: list[str]) -> None:
    """Ids in, ids out, with TensorRT-LLM's shapes. test_waiting reads a whole answer."""
    answer = EngineClient(generated.grpc, NEWEST).ask(
        list(tokenizer.encode(PROMPTS[0])), end_id=2, pad_id=2, output_len=12,
        streaming=True, exclude_input_in_output=True,
    )  # fmt: skip
    assert tokenizer.decode(answer.ids[0]) == answers[0]
    for arrays in answer.responses:
        length = arrays["sequence_length"]
        assert length.shape == (1, 1)
        assert arrays["output_ids"].shape == (1, 1, length.item())
