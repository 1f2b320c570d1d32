"""What newer engines take beside the prompt, and the types that older ones declare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trt_tokenizers.errors import RequestError
from trt_tokenizers.processing.optional_inputs import OptionalInputs
from trt_tokenizers.processing.postprocess import EngineStep, PostprocessingSettings, Postprocessor
from trt_tokenizers.processing.preprocess import PreprocessingSettings, Preprocessor
from trt_tokenizers.processing.request import TextRequest, scalars
from trt_tokenizers.streams.context_store import ContextStore
from trt_tokenizers.streams.stream_key import key_of_request_id
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.registry import create

IDS = np.array([[5, 700, 6]], dtype=np.int32)


@pytest.fixture
def optional(bpe_dir: Path) -> OptionalInputs:
    return OptionalInputs(create(TokenizerSettings(str(bpe_dir))), 600, 100)


def test_nothing_is_made_that_nobody_asked_for(optional: OptionalInputs) -> None:
    assert optional.arrays(TextRequest(text_input=[b"x"]), IDS) == {}
    assert optional.arrays(TextRequest(decoder_text_input=[b""]), IDS) == {}


def test_the_prompt_table(optional: OptionalInputs) -> None:
    request = TextRequest(prompt_table_extra_id=[9])
    made = optional.arrays(request, IDS)["OUT_PROMPT_TABLE_EXTRA_IDS"]
    assert made.tolist() == [[0, 9, 0]]
    assert made.dtype == np.uint64


def test_decoder_text(optional: OptionalInputs, bpe_dir: Path) -> None:
    tokenizer = create(TokenizerSettings(str(bpe_dir)))
    made = optional.arrays(TextRequest(rows=2, decoder_text_input=[b"one two", b""]), IDS)
    ids = tokenizer.encode("one two")
    assert made["DECODER_INPUT_ID"].tolist() == [ids, [tokenizer.pad_id] * len(ids)]
    assert made["REQUEST_DECODER_INPUT_LEN"].tolist() == [[len(ids)], [0]]
    with pytest.raises(RequestError, match="decoder_text_input is not valid UTF-8"):
        optional.arrays(TextRequest(decoder_text_input=[b"\xff"]), IDS)
    with pytest.raises(RequestError, match="decoder_text_input has 101 characters"):
        optional.arrays(TextRequest(decoder_text_input=[b"x" * 101]), IDS)


def test_one_value_per_row() -> None:
    assert scalars({}, "x") is None
    assert scalars({"x": np.array([[1], [2]])}, "x") == [1, 2]
    with pytest.raises(RequestError, match=r"x has the shape \[1, 2\]; send one value"):
        scalars({"x": np.array([[1, 2]])}, "x")


@pytest.mark.parametrize("by_default", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("request_id", ["", "id"])
def test_the_prompt_in_front(
    bpe_dir: Path, tmp_path: Path, by_default: bool, stream: bool, request_id: str
) -> None:
    """An engine that echoes: cut where the context says how much, and asked for in text once."""
    store = ContextStore(tmp_path / "contexts")
    settings = PreprocessingSettings(
        str(bpe_dir), stream_key="request_id", exclude_input_in_output=by_default
    )
    before = Preprocessor(settings, store)
    request = TextRequest(text_input=[b"one two"], stream=[stream], request_id=request_id)
    made = before.process(request).arrays
    # Without a context nobody but the engine can put the prompt in front.
    excludes = bool(made["OUT_EXCLUDE_INPUT_IN_OUTPUT"].item())
    assert excludes == (bool(request_id) or by_default or stream)
    after = Postprocessor(
        PostprocessingSettings(str(bpe_dir), stream_key="request_id", prompt_in_output=True),
        store,
        reusable_keys=True,
    )
    prompt = made["INPUT_ID"][0].tolist()
    answer = before.tokenizer.encode(" three")
    echoed = [] if stream else prompt
    (step,) = after.process(EngineStep(key_of_request_id(request_id), [[*echoed, *answer]]))
    cut = stream or (bool(request_id) and by_default)
    assert step.text == (" three" if cut else "one two three")
