"""Optional inputs, declared types and the prompt in the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing import process
from trt_tokenizers.errors import RequestError
from trt_tokenizers.processing.optional_inputs import optional_arrays
from trt_tokenizers.processing.postprocess import EngineStep, PostprocessingSettings, Postprocessor
from trt_tokenizers.processing.preprocess import PreprocessingSettings, Preprocessor
from trt_tokenizers.processing.request import TextRequest, scalars
from trt_tokenizers.streams.context_store import ContextStore
from trt_tokenizers.streams.stream_key import key_of_request_id
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.registry import create

IDS = np.array([[5, 700, 6]], dtype=np.int32)


@pytest.fixture
def tokenizer(bpe_dir: Path) -> Tokenizer:
    return create(TokenizerSettings(str(bpe_dir)))


def arrays(tokenizer: Tokenizer, request: TextRequest) -> dict[str, Any]:
    return optional_arrays(request, IDS, tokenizer, 600, 100)


def test_inputs_that_were_not_sent_make_no_arrays(tokenizer: Tokenizer) -> None:
    assert arrays(tokenizer, TextRequest(text_input=[b"x"])) == {}
    assert arrays(tokenizer, TextRequest(decoder_text_input=[b""])) == {}


def test_the_prompt_table(tokenizer: Tokenizer) -> None:
    made = arrays(tokenizer, TextRequest(prompt_table_extra_id=[9]))["OUT_PROMPT_TABLE_EXTRA_IDS"]
    assert made.tolist() == [[0, 9, 0]]
    assert made.dtype == np.uint64


def test_decoder_text(tokenizer: Tokenizer) -> None:
    made = arrays(tokenizer, TextRequest(rows=2, decoder_text_input=[b"one two", b""]))
    ids = tokenizer.encode("one two")
    assert made["DECODER_INPUT_ID"].tolist() == [ids, [tokenizer.pad_id] * len(ids)]
    assert made["REQUEST_DECODER_INPUT_LEN"].tolist() == [[len(ids)], [0]]
    with pytest.raises(RequestError, match="decoder_text_input is not valid UTF-8"):
        arrays(tokenizer, TextRequest(decoder_text_input=[b"\xff"]))
    with pytest.raises(RequestError, match="decoder_text_input has 101 characters"):
        arrays(tokenizer, TextRequest(decoder_text_input=[b"x" * 101]))


def test_one_value_per_row() -> None:
    assert scalars({}, "x") is None
    assert scalars({"x": np.array([[1], [2]])}, "x") == [1, 2]
    with pytest.raises(RequestError, match=r"x has the shape \[1, 2\]; send one value"):
        scalars({"x": np.array([[1, 2]])}, "x")


@pytest.mark.parametrize("by_default", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("request_id", ["", "id"])
def test_the_prompt_before_the_answer(
    bpe_dir: Path, tmp_path: Path, by_default: bool, stream: bool, request_id: str
) -> None:
    """The engine echoes the prompt; postprocessing removes it if the context says so."""
    store = ContextStore(tmp_path / "contexts")
    settings = PreprocessingSettings(
        str(bpe_dir), stream_key="request_id", exclude_input_in_output=by_default
    )
    before = Preprocessor(settings, store)
    request = TextRequest(text_input=[b"one two"], stream=[stream], request_id=request_id)
    made = process(before, request).arrays
    # Without a context only the engine can prepend the prompt.
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
