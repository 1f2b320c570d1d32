"""What newer engines take beside the prompt, and the types that older ones declare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trt_tokenizers.errors import RequestError
from trt_tokenizers.inputs import OptionalInputs, as_declared, scalars
from trt_tokenizers.postprocess import EngineStep, PostprocessingSettings, Postprocessor
from trt_tokenizers.preprocess import PreprocessingSettings, Preprocessor, TextRequest
from trt_tokenizers.streams import ContextStore, key_of_request_id
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.registry import create

IDS = np.array([[5, 700, 6]], dtype=np.int32)


@pytest.fixture
def optional(bpe_dir: Path) -> OptionalInputs:
    return OptionalInputs(create(TokenizerSettings(str(bpe_dir))), str(bpe_dir), 600)


def words(*texts: str) -> np.ndarray:
    return np.array([[text.encode() for text in texts]], dtype=np.object_)


def test_nothing_is_made_that_nobody_asked_for(optional: OptionalInputs) -> None:
    assert optional.arrays({"QUERY": words("x")}, IDS) == {}
    empty = {
        "EMBEDDING_BIAS_WORDS": words(""),
        "EMBEDDING_BIAS_WEIGHTS": np.zeros((1, 1), np.float32),
        "DECODER_QUERY": words(""),
    }
    assert optional.arrays(empty, IDS) == {}


def test_embedding_bias(optional: OptionalInputs, bpe_dir: Path) -> None:
    tokenizer = create(TokenizerSettings(str(bpe_dir)))
    weights = np.array([[2.0, -1.0]], dtype=np.float32)
    inputs = {"EMBEDDING_BIAS_WORDS": words("a", "bc"), "EMBEDDING_BIAS_WEIGHTS": weights}
    bias = optional.arrays(inputs, IDS)["EMBEDDING_BIAS"]
    expected = np.zeros((1, 600), np.float32)
    expected[0, tokenizer.encode("a")] += 2
    for token_id in tokenizer.encode("bc"):
        expected[0, token_id] -= 1
    assert np.array_equal(bias, expected)
    with pytest.raises(RequestError, match="differ in number; send one weight for each"):
        optional.arrays({**inputs, "EMBEDDING_BIAS_WEIGHTS": weights[:, :1]}, IDS)
    unknown = OptionalInputs(tokenizer, str(bpe_dir), 0)
    with pytest.raises(RequestError, match="not known; set vocab_size of the model preproc"):
        unknown.arrays(inputs, IDS)


def test_the_vocabulary_is_that_of_the_models_config(bpe_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 7}))
    tokenizer = create(TokenizerSettings(str(bpe_dir)))
    made = OptionalInputs(tokenizer, str(tmp_path), 0).arrays(
        {"PROMPT_TABLE_EXTRA_ID": np.array([[9]], dtype=np.uint64)}, IDS
    )
    assert made["OUT_PROMPT_TABLE_EXTRA_IDS"].tolist() == [[0, 9, 0]]
    assert made["OUT_PROMPT_TABLE_EXTRA_IDS"].dtype == np.uint64


def test_decoder_text(optional: OptionalInputs, bpe_dir: Path) -> None:
    tokenizer = create(TokenizerSettings(str(bpe_dir)))
    texts = np.array([[b"one two"], [b""]], dtype=np.object_)
    made = optional.arrays({"DECODER_QUERY": texts}, IDS)
    ids = tokenizer.encode("one two")
    assert made["DECODER_INPUT_ID"].tolist() == [ids, [tokenizer.pad_id] * len(ids)]
    assert made["REQUEST_DECODER_INPUT_LEN"].tolist() == [[len(ids)], [0]]


def test_outputs_are_of_the_declared_types() -> None:
    arrays = {"a": np.array([[1]], np.int32), "b": np.array([[-1]], np.int32), "c": IDS}
    made = as_declared(arrays, {"a": np.uint32, "b": np.uint32, "d": np.int32})
    assert {name: array.dtype for name, array in made.items()} == {"a": np.dtype("uint32")}
    assert as_declared({"b": arrays["b"]}, {"b": np.int32})["b"] is arrays["b"]


def test_one_value_per_row() -> None:
    assert scalars("x", None) is None
    assert scalars("x", np.array([[1], [2]])) == [1, 2]
    with pytest.raises(RequestError, match=r"x has the shape \[1, 2\]; send one value"):
        scalars("x", np.array([[1, 2]]))


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
        keys_return=True,
    )
    prompt = made["INPUT_ID"][0].tolist()
    answer = before.tokenizer.encode(" three")
    echoed = [] if stream else prompt
    (step,) = after.process(EngineStep(key_of_request_id(request_id), [[*echoed, *answer]]))
    cut = stream or (bool(request_id) and by_default)
    assert step.text == (" three" if cut else "one two three")
