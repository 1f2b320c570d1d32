"""Text -> engine request, without Triton."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from preprocessing import process
from trt_tokenizers.errors import RequestError, SettingsError
from trt_tokenizers.processing.preprocess import EngineRequest, PreprocessingSettings, Preprocessor
from trt_tokenizers.processing.request import TextRequest
from trt_tokenizers.processing.stop_words import tokenizations
from trt_tokenizers.settings import parse
from trt_tokenizers.streams.context_store import ContextStore
from trt_tokenizers.streams.stream_folder import open_streams
from trt_tokenizers.streams.stream_key import key_of_request_id
from trt_tokenizers.streams.word_arrays import from_array, to_array


@pytest.fixture
def contexts(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "streams")


@pytest.fixture
def preprocessor(bpe_dir: Path, contexts: ContextStore) -> Preprocessor:
    return make(bpe_dir, contexts)


def make(folder: Path, contexts: ContextStore, **parameters: str) -> Preprocessor:
    defaults = {"tokenizer_dir": str(folder), "max_seq_len": "64", "stream_key": "tensor"}
    settings = parse(PreprocessingSettings, {**defaults, **parameters}, "model 'preprocessing'")
    return Preprocessor(settings, contexts)


def test_arrays_for_the_engine(preprocessor: Preprocessor, contexts: ContextStore) -> None:
    made = process(
        preprocessor, TextRequest(rows=2, text_input=[b"hello world", b"a"], max_tokens=[3, 4])
    )
    tokenizer = preprocessor.tokenizer
    ids = tokenizer.encode("hello world")
    assert made.arrays["INPUT_ID"].dtype == np.int32
    assert made.arrays["INPUT_ID"][0].tolist() == ids
    padding = [tokenizer.pad_id] * (len(ids) - 1)
    assert made.arrays["INPUT_ID"][1].tolist() == tokenizer.encode("a") + padding
    assert made.arrays["REQUEST_INPUT_LEN"].tolist() == [[len(ids)], [1]]
    assert made.arrays["REQUEST_OUTPUT_LEN"].tolist() == [[3], [4]]
    assert made.arrays["OUT_END_ID"].tolist() == [[2], [2]]
    # The model's second EOS id reaches the engine as a stop word of one token.
    assert [from_array(row) for row in made.arrays["STOP_WORDS_IDS"]] == [((0,),), ((0,),)]
    assert "BAD_WORDS_IDS" not in made.arrays, "an empty list makes no array"
    keys = made.arrays["STREAM_KEY"][:, 0].tolist()
    assert len(set(keys)) == 2
    assert all(0 <= key < 2**53 for key in keys)
    context = contexts.take(keys[0])
    assert context is not None
    assert context.num_input_tokens == len(ids)
    assert context.end_ids == (2, 0)


def test_messages_give_the_ids_of_apply_chat_template(
    preprocessor: Preprocessor, bpe_dir: Path
) -> None:
    from transformers import AutoTokenizer

    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "v"},
    ]
    made = process(preprocessor, TextRequest(messages=[json.dumps(messages).encode()]))
    expected = AutoTokenizer.from_pretrained(bpe_dir).apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert made.arrays["INPUT_ID"][0].tolist() == expected


@pytest.mark.parametrize("template", ["llama2", "chatml"])
def test_one_bos_with_any_template(
    sentencepiece_dir: Path, contexts: ContextStore, template: str
) -> None:
    preprocessor = make(sentencepiece_dir, contexts, tokenizer_type="llama", template=template,
                        max_seq_len="")  # fmt: skip
    messages = b'[{"role": "user", "content": "hi"}]'
    ids = process(preprocessor, TextRequest(messages=[messages])).arrays["INPUT_ID"][0].tolist()
    assert ids[0] == preprocessor.tokenizer.bos_id
    assert ids.count(preprocessor.tokenizer.bos_id) == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (TextRequest(), "the prompt is empty"),
        (TextRequest(text_input=[b""]), "the prompt is empty"),
        (TextRequest(text_input=[b"\xff"]), "text_input is not valid UTF-8: .* at byte 0"),
        (TextRequest(messages=[b"\xff"]), "messages is not valid UTF-8"),
        (TextRequest(text_input=[b"a"], messages=[b"[]"]), "both given"),
        (TextRequest(text_input=[b"a"], max_tokens=[0]), "max_tokens is 0; it must be at least 1"),
        (TextRequest(text_input=[b"a"], max_tokens=[-1]), "max_tokens is -1"),
        (TextRequest(text_input=[b"a"], max_tokens=[64]), "max_tokens may be at most 63"),
        (TextRequest(text_input=[b"ab cd" * 64]), "the model takes 64 in all; shorten the prompt"),
        (TextRequest(text_input=[b"a"], parameters={"max_token": 1}),
         r"unknown parameter 'max_token' \(did you mean 'max_tokens'\?\)"),
        # An input that this ensemble lacks, as Triton passes it.
        (TextRequest(text_input=[b"a"], parameters={"min_p": 0.1}),
         "unknown parameter 'min_p'; this server's ensemble has no such input, leave it out"),
        (TextRequest(text_input=[b"a"], stop_words=[[b"\xff"]]), "stop_words is not valid UTF-8"),
        # More than 16 characters for each of the model's 64 tokens.
        (TextRequest(text_input=[b"a" * 1025]),
         "the prompt has 1025 characters and at most 1024 are served; shorten it, or set"),
        (TextRequest(messages=[b'[{"role": "user", "content": "%s"}]' % (b"a" * 1025)]),
         "the prompt has 10.. characters and at most 1024"),
        (TextRequest(text_input=[b"a"], stop_words=[[b"a" * 512, b"b" * 513]]),
         "stop_words has 1025 characters and at most 1024"),
        (TextRequest(text_input=[b"a"], bad_words=[[b"a" * 1025]]),
         "bad_words has 1025 characters"),
        (TextRequest(text_input=[b"a"], embedding_bias_words=[[b"a" * 1025]],
                     embedding_bias_weights=[[1.0]]), "embedding_bias_words has 1025 characters"),
        (TextRequest(text_input=[b"a"], stop_words=[[b"a"] * 1001]),
         "stop_words has 1001 words and at most 1000 are served; send fewer, or set max_words"),
        (TextRequest(text_input=[b"a"], bad_words=[[b"a"] * 1001]), "bad_words has 1001 words"),
        (TextRequest(text_input=[b"a"], embedding_bias_words=[[b""] * 1001],
                     embedding_bias_weights=[[1.0] * 1001]), "embedding_bias_words has 1001"),
        (TextRequest(text_input=[b"a"], decoder_text_input=[b"a" * 1025]),
         "decoder_text_input has 1025 characters"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_and_leave_no_context(
    preprocessor: Preprocessor, contexts: ContextStore, request_: TextRequest, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        process(preprocessor, request_)
    assert [*open_streams(contexts.directory)] == []


@pytest.mark.parametrize(
    ("parameters", "most"),
    [
        ({}, 1024),
        ({"max_prompt_chars": "7"}, 7),
        ({"max_seq_len": "0"}, 5_000_000),
        # Longer prompts are truncated.
        ({"truncate_prompt_tokens": "3"}, 5_000_000),
    ],
)
def test_texts_over_the_limit_are_not_encoded(
    bpe_dir: Path,
    contexts: ContextStore,
    monkeypatch: pytest.MonkeyPatch,
    parameters: dict[str, str],
    most: int,
) -> None:
    preprocessor = make(bpe_dir, contexts, **parameters)
    lengths: list[int] = []

    def encode(texts: Sequence[str], **_: bool) -> list[list[int]]:
        lengths.extend(map(len, texts))
        return [[5] for _ in texts]

    monkeypatch.setattr(preprocessor.tokenizer, "encode_batch", encode)
    made = preprocessor.process_batch(
        [TextRequest(text_input=[b"a" * length]) for length in (most, most + 1)]
    )
    assert lengths == [most]
    assert [type(each) for each in made] == [EngineRequest, RequestError]


def test_a_bad_row_leaves_no_context_of_other_rows(
    preprocessor: Preprocessor, contexts: ContextStore
) -> None:
    with pytest.raises(RequestError):
        process(preprocessor, TextRequest(rows=2, text_input=[b"good", b""]))
    assert [*open_streams(contexts.directory)] == []


def test_messages_need_a_template(sentencepiece_dir: Path, contexts: ContextStore) -> None:
    preprocessor = make(sentencepiece_dir, contexts, tokenizer_type="llama")
    with pytest.raises(RequestError, match="this server has no chat template"):
        process(preprocessor, TextRequest(messages=[b'[{"role": "user", "content": "hi"}]']))


def test_end_id(preprocessor: Preprocessor) -> None:
    made = process(preprocessor, TextRequest(text_input=[b"a"], end_id=[7]))
    assert made.arrays["OUT_END_ID"].tolist() == [[7]]
    assert set(from_array(made.arrays["STOP_WORDS_IDS"][0])) == {(2,), (0,)}
    made = process(preprocessor, TextRequest(text_input=[b"a"], end_id=[-1]))
    assert made.arrays["OUT_END_ID"].tolist() == [[-1]]
    assert "STOP_WORDS_IDS" not in made.arrays


def test_default_max_tokens_fits_the_model(preprocessor: Preprocessor) -> None:
    made = process(preprocessor, TextRequest(text_input=[b"a"]))
    assert made.arrays["REQUEST_OUTPUT_LEN"].tolist() == [[63]]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"tokeniser_dir": "x"},
            r"unknown parameter 'tokeniser_dir' \(did you mean 'tokenizer_dir'",
        ),
        ({"max_seq_len": "/${max_seq_len}"}, "expected a whole number"),
        ({"max_seq_len": "many"}, "'max_seq_len' is 'many'; expected a whole number"),
        ({"max_seq_len": "-1"}, "max_seq_len is -1"),
        ({"max_words": "-1"}, "max_words is -1"),
        ({"max_prompt_chars": "-1"}, "max_prompt_chars is -1"),
        ({"default_max_tokens": "0"}, "default_max_tokens is 0"),
        ({"add_special_tokens": "maybe"}, "expected true or false"),
        ({"stream_key": "pigeon"}, "stream_key is 'pigeon'; it must be one of auto, tensor"),
        ({"stream_key": "sequence_id"}, "needs Triton 25.02 or newer"),
        ({"word_lists": "xml"}, "word_lists is 'xml'; it must be list or csv"),
    ],
)
def test_bad_settings_are_refused(
    bpe_dir: Path, contexts: ContextStore, parameters: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        make(bpe_dir, contexts, **parameters)


def test_word_arrays_round_trip() -> None:
    rows = [[(1, 2), (3,)], [], [(4, 5, 6)]]
    array = to_array(rows)
    assert array.shape == (3, 2, 3)
    assert array[0].tolist() == [[1, 2, 3], [2, 3, -1]]
    assert [list(from_array(row)) for row in array] == rows
    with pytest.raises(RequestError, match="word list offset"):
        from_array(np.array([[1, 2], [3, -1]], dtype=np.int32))


def test_a_word_has_ids_at_the_start_and_after_a_space(preprocessor: Preprocessor) -> None:
    tokenizer = preprocessor.tokenizer
    found = tokenizations(tokenizer, ["", "space"], "stop_words")
    assert tuple(tokenizer.encode("space")) in found
    assert tuple(tokenizer.encode(" space")) in found


def test_a_client_id_carries_the_contexts_of_all_rows(
    bpe_dir: Path, contexts: ContextStore
) -> None:
    preprocessor = make(bpe_dir, contexts, stream_key="auto")  # no response parameters here
    made = process(
        preprocessor,
        TextRequest(rows=2, text_input=[b"a", b"hello"], max_tokens=[1, 2], request_id="mine"),
    )
    assert ("STREAM_KEY" in made.arrays, made.sequence_id) == (False, None)
    key = key_of_request_id("mine")
    assert key is not None
    assert [contexts.take(key, row).max_tokens for row in (0, 1)] == [1, 2]
    process(preprocessor, TextRequest(text_input=[b"a"]))
    # Without an id postprocessing cannot find it.
    assert len([*open_streams(contexts.directory)]) == 2


def test_a_sequence_id_is_a_number_that_json_can_hold(
    bpe_dir: Path, contexts: ContextStore
) -> None:
    settings = PreprocessingSettings(tokenizer_dir=str(bpe_dir))
    preprocessor = Preprocessor(settings, contexts, response_parameters=True)
    made = process(preprocessor, TextRequest(text_input=[b"a"]))
    assert "STREAM_KEY" not in made.arrays
    assert isinstance(made.sequence_id, int)
    assert 0 < made.sequence_id < 2**53
    assert contexts.take(made.sequence_id) is not None


def test_commas_separate_words_only_with_csv(bpe_dir: Path, contexts: ContextStore) -> None:
    words = [[b'a,b,"c,d"']]
    for form, expected in (("list", ('a,b,"c,d"',)), ("csv", ("a", "b", "c,d"))):
        preprocessor = make(bpe_dir, contexts, word_lists=form)
        made = process(preprocessor, TextRequest(text_input=[b"x"], stop_words=words))
        context = contexts.take(int(made.arrays["STREAM_KEY"][0, 0]))
        assert context is not None
        assert context.stop_strings == expected


def test_the_number_of_words_is_counted_after_csv(bpe_dir: Path, contexts: ContextStore) -> None:
    preprocessor = make(bpe_dir, contexts, word_lists="csv", max_words="2")
    assert process(preprocessor, TextRequest(text_input=[b"x"], stop_words=[[b"a,b"]]))
    with pytest.raises(RequestError, match="stop_words has 3 words and at most 2 are served"):
        process(preprocessor, TextRequest(text_input=[b"x"], stop_words=[[b"a,b,c"]]))


@pytest.mark.parametrize("by_default", ["true", "false"])
@pytest.mark.parametrize("sent", [None, True, False])
def test_a_stream_never_begins_with_the_prompt(
    bpe_dir: Path, contexts: ContextStore, by_default: str, sent: bool | None
) -> None:
    """NVIDIA's client always sends exclude_input_in_output false, and expects new text only."""
    preprocessor = make(bpe_dir, contexts, exclude_input_in_output=by_default)
    excluded = by_default == "true" if sent is None else sent
    for stream, echo in ((True, ""), (False, "" if excluded else "hi")):
        inputs = {"exclude_input_in_output": None if sent is None else [sent]}
        made = process(preprocessor, TextRequest(text_input=[b"hi"], stream=[stream], **inputs))
        context = contexts.take(int(made.arrays["STREAM_KEY"][0, 0]))
        assert context is not None
        assert context.echo == echo
