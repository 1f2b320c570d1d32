"""Places of added tokens in the text of an answer, however its ids are divided into steps."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_tokenizers.processing.output_arrays import output_arrays
from trt_tokenizers.processing.text_sequence import TextSequence, TextStep
from trt_tokenizers.streams.context_store import RequestContext
from trt_tokenizers.streams.stream_key import FinishReason
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.registry import create

CALL = "<tool_call>"
#: The marker as one token, the same letters as text, a special token, half of a character.
PARTS = [CALL, "<|im_end|>", "say ", "é", "x"]


@pytest.fixture(scope="module")
def tokenizer(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("marked") / "bpe"
    shutil.copytree(bpe_dir, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {"700": {"content": CALL, "special": False}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    made = create(TokenizerSettings(str(folder)))
    ids = made.encode(CALL)
    assert len(ids) == 1
    return made


def steps_of(
    tokenizer: Tokenizer, ids: list[int], cuts: list[int], **context: object
) -> list[TextStep]:
    made = RequestContext(
        num_input_tokens=1,
        skip_special_tokens=False,
        prompt_end="end",
        **context,  # type: ignore[arg-type]
    )
    sequence = TextSequence(tokenizer, made)
    places = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    steps = [
        sequence.step(ids[a:b], FinishReason.NOT_FINISHED) for a, b in itertools.pairwise(places)
    ]
    return [*steps, sequence.step([], FinishReason.STOP)]


def marked(steps: list[TextStep]) -> list[tuple[str, int, bool]]:
    """Text, place in the whole answer and whether it is special, of each added token."""
    found, at = [], 0
    for step in steps:
        flat = list(step.added)
        for start, end, special in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            found.append((step.text[start:end], at + start, bool(special)))
        at += len(step.text)
    return found


@given(parts=st.lists(st.sampled_from([*PARTS, "as text"]), max_size=8),
       cuts=st.lists(st.integers(0, 40), max_size=5))  # fmt: skip
def test_places_do_not_depend_on_cuts(
    tokenizer: Tokenizer, parts: list[str], cuts: list[int]
) -> None:
    ids: list[int] = []
    expected, text = [], ""
    for part in parts:
        if part == "as text":  # the marker's letters, as ordinary tokens
            ids += [i for letter in CALL for i in tokenizer.encode(letter)]
            text += CALL
            continue
        ids += tokenizer.encode(part)
        if part in PARTS[:2]:
            expected.append((part, len(text), part == PARTS[1]))
        text += part
    steps = steps_of(tokenizer, ids, cuts)
    assert "".join(step.text for step in steps) == text
    assert marked(steps) == expected
    assert [step.prompt_end for step in steps] == ["end"] + [None] * (len(steps) - 1)


def test_a_character_cut_by_a_marker(tokenizer: Tokenizer) -> None:
    half = tokenizer.encode("é")[:1]
    if len(tokenizer.encode("é")) == 1:
        half = [next(i for i in range(600) if tokenizer.token_bytes(i) == b"\xc3")]
    assert marked(steps_of(tokenizer, [*half, *tokenizer.encode(CALL)], [1])) == [(CALL, 1, False)]


def test_a_marker_after_text_that_a_stop_string_held_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"ab{CALL}c")
    steps = steps_of(tokenizer, ids, [1, 2, 3], stop_strings=("b<tool_call>d",))
    assert "".join(step.text for step in steps) == f"ab{CALL}c"
    assert marked(steps) == [(CALL, 2, False)]
    steps = steps_of(tokenizer, ids, [1, 2, 3], stop_strings=("b",))
    assert marked(steps) == []


def test_clients_that_do_not_ask_get_no_places(tokenizer: Tokenizer) -> None:
    sequence = TextSequence(tokenizer, RequestContext(1, skip_special_tokens=False))
    step = sequence.step(tokenizer.encode(CALL), FinishReason.STOP)
    assert (step.text, list(step.added), step.prompt_end) == (CALL, [], None)


def test_bytes_of_the_counted_tokens(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode(f"é{CALL}"), tokenizer.eos_ids[0]]
    for prompt_end, expected in (("", [*"é".encode()]), (None, [])):
        sequence = TextSequence(
            tokenizer,
            RequestContext(1, end_ids=tokenizer.eos_ids, prompt_end=prompt_end),
        )
        step = sequence.step(ids, FinishReason.STOP, [-1.0] * len(ids))
        joined = b"".join(step.tokens)
        assert joined == (bytes(expected) + CALL.encode() if expected else b"")
        assert len(step.tokens) in (0, len(step.log_probs))


def test_a_response_after_the_end_repeats_no_places_and_no_tokens() -> None:
    end = TextStep("<b>", FinishReason.STOP, 3, 2, [5], [-1.0], -1.5, True, [0, 3, 1], "é", [b"x"])
    assert end.after_end(FinishReason.STOP) == TextStep(
        "", FinishReason.STOP, num_input_tokens=3, num_output_tokens=2, cum_log_prob=-1.5
    )


def test_arrays_of_places_and_tokens() -> None:
    steps = [
        [TextStep("a<b>", added=[1, 4, 1], prompt_end="é", tokens=[b"x", b"xx"])],
        [TextStep("", tokens=[b"xxx"])],
    ]
    arrays = output_arrays(steps, log_probs=True)
    assert arrays["ADDED_TOKENS"].tolist() == [[1, 4, 1], [-1, -1, -1]]
    assert arrays["ADDED_TOKENS"].dtype == np.int32
    assert arrays["PROMPT_END"].tolist() == [["é".encode()], [b""]]
    assert arrays["OUT_TOKENS"].tolist() == [[[b"x", b"xx"]], [[b"xxx", b""]]]
    plain = output_arrays([[TextStep("a")]], log_probs=True)
    assert not {"ADDED_TOKENS", "PROMPT_END", "OUT_TOKENS"} & plain.keys()
