"""Prompts of requests: tools, template arguments, truncation, embedding bias, whole batches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from preprocessing import process
from texts import HARD_TEXTS
from trt_tokenizers.errors import RequestError
from trt_tokenizers.processing.preprocess import EngineRequest, PreprocessingSettings, Preprocessor
from trt_tokenizers.processing.request import TextRequest, from_tensors
from trt_tokenizers.processing.stop_words import embedding_bias
from trt_tokenizers.settings import parse
from trt_tokenizers.streams.context_store import ContextStore
from trt_tokenizers.streams.stream_key import key_of_request_id

HI = b'[{"role": "user", "content": "hi"}]'
TOOLS = b'[{"type": "function", "function": {"name": "f", "parameters": {}}}]'
SHOWS = "{{ x }}|{% for t in tools or [] %}{{ t.function.name }}{% endfor %}|{{ enable_thinking }}"


@pytest.fixture
def contexts(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "streams")


def make(folder: Path, contexts: ContextStore, **parameters: str) -> Preprocessor:
    defaults = {"tokenizer_dir": str(folder), "stream_key": "tensor"}
    settings = parse(PreprocessingSettings, {**defaults, **parameters}, "model 'preprocessing'")
    return Preprocessor(settings, contexts)


def prompt(preprocessor: Preprocessor, request: TextRequest) -> str:
    ids = process(preprocessor, request).arrays["INPUT_ID"][0].tolist()
    return preprocessor.tokenizer.decode(ids, skip_special_tokens=False)


def test_tools_and_arguments_reach_the_template(bpe_dir: Path, contexts: ContextStore) -> None:
    preprocessor = make(bpe_dir, contexts, template=SHOWS)
    arguments = json.dumps({"x": "é", "enable_thinking": False}).encode()
    request = TextRequest(messages=[HI], tools=[TOOLS], chat_template_kwargs=[arguments])
    assert prompt(preprocessor, request) == "é|f|False"
    assert prompt(preprocessor, TextRequest(messages=[HI])) == "||"
    empty = TextRequest(messages=[HI], tools=[b""], chat_template_kwargs=[b""])
    assert prompt(preprocessor, empty) == "||", "an empty string counts as not sent"


def with_templates(folder: Path, work: Path, layout: str, **sources: str) -> Path:
    """A copy of *folder* with these templates, by name."""
    shutil.copytree(folder, work)
    path = work / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = [{"name": n, "template": s} for n, s in sources.items()]
    if layout == "files":
        del config["chat_template"]
        (work / "additional_chat_templates").mkdir()
        for name, source in sources.items():
            own = "chat_template" if name == "default" else f"additional_chat_templates/{name}"
            (work / f"{own}.jinja").write_text(source)
    path.write_text(json.dumps(config))
    return work


@pytest.mark.parametrize("layout", ["list", "files"])
def test_requests_with_tools_use_the_models_tools_template(
    bpe_dir: Path, tmp_path: Path, layout: str
) -> None:
    folder = with_templates(
        bpe_dir, tmp_path / "model", layout,
        default="D{{ messages[0].content }}", tool_use="T{{ tools | length }}", rag="R", bad="{%",
    )  # fmt: skip
    preprocessor = make(folder, ContextStore(tmp_path / "streams"))
    assert prompt(preprocessor, TextRequest(messages=[HI])) == "Dhi"
    assert prompt(preprocessor, TextRequest(messages=[HI], tools=[b"[]"])) == "Dhi"
    assert prompt(preprocessor, TextRequest(messages=[HI], tools=[TOOLS])) == "T1"

    def named(name: str) -> TextRequest:
        arguments = json.dumps({"chat_template": name}).encode()
        return TextRequest(messages=[HI], chat_template_kwargs=[arguments])

    assert prompt(preprocessor, named("rag")) == "R"
    with pytest.raises(RequestError, match=r"template 'auto \(bad\)', line 1"):
        prompt(preprocessor, named("bad"))
    with pytest.raises(RequestError, match="name one of bad, default, rag, tool_use, or set allow"):
        prompt(preprocessor, named("{{ 1 }}"))
    chosen = make(folder, ContextStore(tmp_path / "others"), template="chatml")
    with pytest.raises(RequestError, match="leave chat_template out, or set"):
        prompt(chosen, named("rag"))


def test_a_model_without_a_default_template(bpe_dir: Path, tmp_path: Path) -> None:
    folder = with_templates(bpe_dir, tmp_path / "model", "list", tool_use="{{ tools | length }}")
    preprocessor = make(folder, ContextStore(tmp_path / "streams"))
    assert prompt(preprocessor, TextRequest(messages=[HI], tools=[TOOLS])) == "1"
    with pytest.raises(RequestError, match="has the templates tool_use and no default; name"):
        prompt(preprocessor, TextRequest(messages=[HI]))


def test_a_template_of_the_tokenizer_type_replaces_those_of_files(
    bpe_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "templated.py").write_text(
        "from trt_tokenizers.tokenizers.byte import ByteTokenizer\n"
        "class Type(ByteTokenizer):\n"
        "    def __init__(self, settings):\n"
        "        super().__init__(settings)\n"
        "        self.chat_template = 'mine {{ tools | length }}'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = with_templates(bpe_dir, tmp_path / "model", "files", tool_use="theirs")
    preprocessor = make(folder, ContextStore(tmp_path / "streams"), tokenizer_type="templated:Type")
    assert prompt(preprocessor, TextRequest(messages=[HI], tools=[TOOLS])) == "mine 1"


def test_the_context_says_whether_the_answer_continues_the_prompt(
    bpe_dir: Path, contexts: ContextStore
) -> None:
    preprocessor = make(bpe_dir, contexts)
    continuing = b'{"continue_final_message": true}'
    for request, continues in (
        (TextRequest(messages=[HI]), False),
        (TextRequest(messages=[HI], chat_template_kwargs=[continuing]), True),
        (TextRequest(text_input=[b"hi"]), True),
    ):
        key = int(process(preprocessor, request).arrays["STREAM_KEY"][0, 0])
        context = contexts.take(key)
        assert context is not None
        assert context.continues is continues


def test_templates_in_requests_need_the_setting(bpe_dir: Path, contexts: ContextStore) -> None:
    own = json.dumps({"chat_template": "own {{ messages[0].content }}"}).encode()
    request = TextRequest(messages=[HI], chat_template_kwargs=[own])
    with pytest.raises(RequestError, match="accepts no templates from requests"):
        process(make(bpe_dir, contexts), request)
    allowing = make(bpe_dir, contexts, allow_request_templates="true")
    assert prompt(allowing, request) == "own hi"
    broken = TextRequest(messages=[HI], chat_template_kwargs=[b'{"chat_template": "{% x"}'])
    with pytest.raises(RequestError, match="template 'chat_template', line 1"):
        process(allowing, broken)


def test_templates_from_files_and_inline(bpe_dir: Path, contexts: ContextStore) -> None:
    path = bpe_dir / "mine.jinja"
    path.write_text("file {{ messages[0].content }}")
    assert (
        prompt(make(bpe_dir, contexts, template=str(path)), TextRequest(messages=[HI])) == "file hi"
    )


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (TextRequest(messages=[HI], tools=[b"{"]), "tools is not JSON"),
        (TextRequest(messages=[HI], tools=[b"{}"]), "tools must be a JSON list"),
        (TextRequest(messages=[HI], tools=[b"[{}]"]), r"tools\[0\] must be"),
        (TextRequest(messages=[HI], tools=[b"\xff"]), "tools is not valid UTF-8"),
        (TextRequest(messages=[HI], chat_template_kwargs=[b"[]"]), "must be a JSON object"),
        (TextRequest(messages=[HI], chat_template_kwargs=[b'{"a": "\\ud800"}']), "surrogate"),
        (TextRequest(text_input=[b"a"], tools=[TOOLS]), "tools is given without messages"),
        (TextRequest(text_input=[b"a"], chat_template_kwargs=[b"{}"]), "given without messages"),
        (TextRequest(text_input=[b"a"], embedding_bias_words=[[b"a"]]), "send one weight for each"),
        (TextRequest(text_input=[b"a"], embedding_bias_words=[[b"a"]],
                     embedding_bias_weights=[[float("nan")]]), "send finite numbers"),
        (TextRequest(text_input=[b"a"], embedding_bias_words=[[b"a"]],
                     embedding_bias_weights=[[1.0]]), "set vocab_size of the model preprocessing"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused(
    bpe_dir: Path, contexts: ContextStore, request_: TextRequest, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        process(make(bpe_dir, contexts), request_)


@pytest.mark.parametrize(
    ("side", "expected"), [("left", [1, -3, -2, -1]), ("right", [1, 0, 1, 2]), ("", [1, 0, 1, 2])]
)
def test_truncation_keeps_bos(
    sentencepiece_dir: Path, contexts: ContextStore, side: str, expected: list[int]
) -> None:
    preprocessor = make(sentencepiece_dir, contexts, tokenizer_type="llama",
                        truncate_prompt_tokens="4", truncation_side=side)  # fmt: skip
    words = preprocessor.tokenizer.encode("one two three four", add_special_tokens=False)
    made = process(preprocessor, TextRequest(text_input=[b"one two three four"]))
    assert made.arrays["INPUT_ID"][0].tolist() == [1, *(words[at] for at in expected[1:])]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("frame", ["$A <|im_end|>", "<|endoftext|> $A <|im_end|>", "$A"])
def test_truncation_equals_transformers_and_keeps_an_added_eos(
    bpe_dir: Path, tmp_path: Path, contexts: ContextStore, frame: str, side: str
) -> None:
    from transformers import AutoTokenizer

    library = Tokenizer.from_file(str(bpe_dir / "tokenizer.json"))
    tokens = [("<|endoftext|>", 0), ("<|im_end|>", 2)]
    library.post_processor = processors.TemplateProcessing(single=frame, special_tokens=tokens)
    library.save(str(tmp_path / "tokenizer.json"))
    shutil.copy(bpe_dir / "tokenizer_config.json", tmp_path)
    oracle = AutoTokenizer.from_pretrained(tmp_path, truncation_side=side)
    for limit in range(max(1, frame.count("<")), 9):
        preprocessor = make(
            tmp_path, contexts, truncate_prompt_tokens=str(limit), truncation_side=side
        )
        for text in ("hello there my friend", "a", "capital<|im_end|> of France<|im_end|>"):
            made = process(preprocessor, TextRequest(text_input=[text.encode()]))
            expected = oracle(text, truncation=True, max_length=limit)["input_ids"]
            ids = made.arrays["INPUT_ID"][0].tolist()
            # Our types add no EOS to a text that ends with one.
            assert ids == expected or text.endswith(">"), (text, limit)
            assert len(ids) <= limit
            assert ids[-1] == 2 or "<|im_end|>" not in frame


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["t5", "llama", "gpt2"])
def test_truncation_keeps_eos_of_every_type_that_adds_it(
    bpe_dir: Path, sentencepiece_dir: Path, contexts: ContextStore, kind: str, side: str
) -> None:
    folder = bpe_dir if kind == "gpt2" else sentencepiece_dir
    asked = {"tokenizer_type": kind, "truncation_side": side, "add_eos": "true"}
    tokenizer = make(folder, contexts, **asked).tokenizer
    whole = tokenizer.encode("hello there my friend")
    head = 1 if tokenizer.adds_bos else 0
    for limit in range(1, len(whole) + 2):
        preprocessor = make(folder, contexts, **asked, truncate_prompt_tokens=str(limit))
        made = process(preprocessor, TextRequest(text_input=[b"hello there my friend"]))
        ids = made.arrays["INPUT_ID"][0].tolist()
        body = whole[head:-1]
        room = min(len(body), max(0, limit - head - 1))
        kept = body[len(body) - room :] if side == "left" else body[:room]
        assert ids == [*whole[:head], *kept, tokenizer.eos_ids[0]][:limit]


def test_truncation_of_a_rendered_prompt_keeps_no_eos(
    sentencepiece_dir: Path, contexts: ContextStore
) -> None:
    adding = {"tokenizer_type": "llama", "add_eos": "true"}
    preprocessor = make(sentencepiece_dir, contexts, **adding, truncate_prompt_tokens="4",
                        template="{{ messages[0].content }}</s>")  # fmt: skip
    whole = preprocessor.tokenizer.encode("hi</s>", add_special_tokens=False)
    assert len(whole) > 3
    made = process(preprocessor, TextRequest(messages=[HI]))
    assert made.arrays["INPUT_ID"][0].tolist() == [1, *whole[:3]]
    plain = make(sentencepiece_dir, contexts, **adding, truncate_prompt_tokens="3",
                 add_special_tokens="false")  # fmt: skip
    made = process(plain, TextRequest(text_input=[b"hi</s>"]))
    assert made.arrays["INPUT_ID"][0].tolist() == whole[:3]


def test_embedding_bias_is_one_weight_for_each_token_of_a_word(
    bpe_dir: Path, contexts: ContextStore
) -> None:
    preprocessor = make(bpe_dir, contexts, vocab_size="700")
    made = process(
        preprocessor,
        TextRequest(
            rows=2, text_input=[b"a", b"b"], embedding_bias_words=[[b"hello", b"l"], [b"", b""]],
            embedding_bias_weights=[[2.0, -0.5], [0.0, 0.0]],
        )
    )  # fmt: skip
    bias = made.arrays["EMBEDDING_BIAS"]
    assert (bias.shape, bias.dtype) == ((2, 700), np.float32)
    expected = np.zeros(700, dtype=np.float32)
    encode = preprocessor.tokenizer.encode
    for token in encode("hello", add_special_tokens=False):
        expected[token] += 2
    for token in encode("l", add_special_tokens=False):
        expected[token] -= 0.5
    assert bias.tolist() == [expected.tolist(), [0.0] * 700]
    assert "EMBEDDING_BIAS" not in process(preprocessor, TextRequest(text_input=[b"a"])).arrays


def test_embedding_bias_names_a_word_without_tokens(sentencepiece_dir: Path) -> None:
    from trt_tokenizers.tokenizers.base import TokenizerSettings
    from trt_tokenizers.tokenizers.registry import create

    class WithoutTokens:
        unk_id = None

        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return []

    with pytest.raises(RequestError, match="embedding_bias_words: 'a' has no tokens"):
        embedding_bias(WithoutTokens(), ["a"], [1.0], 10)  # type: ignore[arg-type]
    tokenizer = create(TokenizerSettings(str(sentencepiece_dir), "llama"))
    assert embedding_bias(tokenizer, [], [], 0) is None


def test_words_of_unknown_characters_are_refused(tmp_path: Path, contexts: ContextStore) -> None:
    """Their id stands for every unknown character."""
    pieces = ["<unk>", "</s>", "\u2581", "a", "\u2581a"]
    library = Tokenizer(models.Unigram([(p, -1.0) for p in pieces], unk_id=0))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    library.add_special_tokens(["<unk>", "</s>"])
    library.save(str(tmp_path / "tokenizer.json"))
    names = {"eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    preprocessor = make(tmp_path, contexts, vocab_size="8")
    assert 0 in library.encode("\u4e2d").ids
    for fields in (
        {"stop_words": [["\u4e2d".encode()]]},
        {"bad_words": [["\u4e2d \u6587".encode()]]},
        {"embedding_bias_words": [["\u4e2d".encode()]], "embedding_bias_weights": [[1.0]]},
    ):
        message = f"{next(iter(fields))}: .* has only characters that the tokenizer does not know"
        with pytest.raises(RequestError, match=message):
            process(preprocessor, TextRequest(text_input=[b"a"], **fields))
    served = [[b"</s>", b"<unk>", b"a", "a\u4e2d".encode()]]
    process(preprocessor, TextRequest(text_input=[b"a"], stop_words=served, bad_words=served))


@pytest.mark.parametrize("parameters", [False, True], ids=["request_id", "sequence_id"])
def test_each_request_of_a_batch_has_its_own_key_and_parameters(
    bpe_dir: Path, contexts: ContextStore, parameters: bool
) -> None:
    settings = parse(PreprocessingSettings, {"tokenizer_dir": str(bpe_dir)}, "here")
    preprocessor = Preprocessor(settings, contexts, response_parameters=parameters)
    requests = [
        TextRequest(
            rows=1 + at % 2,
            text_input=[f"text {at}".encode()] * (1 + at % 2),
            max_tokens=[at + 1, at + 100],
            stop_words=[[f"stop {at}".encode()]] * (1 + at % 2),
            request_id="" if parameters else f"id {at}",
        )
        for at in range(16)
    ]
    made = preprocessor.process_batch([*requests[:8], RequestError("bad"), *requests[8:]])
    assert isinstance(made.pop(8), RequestError)
    for at, its in enumerate(made):
        assert isinstance(its, EngineRequest)
        key = its.sequence_id if parameters else key_of_request_id(f"id {at}")
        assert key is not None
        for row in range(1 + at % 2):
            context = contexts.take(key, row)
            assert context is not None
            assert context.stop_strings == (f"stop {at}",)
            assert context.max_tokens == (at + 1, at + 100)[row]
            expected = preprocessor.tokenizer.encode(f"text {at}")
            assert its.arrays["INPUT_ID"][row].tolist() == expected
            assert its.arrays["REQUEST_OUTPUT_LEN"][row].item() == context.max_tokens


def test_requests_in_a_batch_give_the_same_ids_as_alone(
    bpe_dir: Path, contexts: ContextStore
) -> None:
    preprocessor = make(bpe_dir, contexts)
    requests: list[TextRequest | Exception] = [
        *(TextRequest(text_input=[text.encode()]) for text in HARD_TEXTS),
        TextRequest(messages=[HI]),
        TextRequest(text_input=[b""]),
        TextRequest(rows=2, text_input=[b"a", b"b"]),
        RequestError("bad tensors"),
        TextRequest(rows=2, messages=[HI, b"["]),
        TextRequest(messages=[HI], text_input=[b""]),
    ]
    batch = preprocessor.process_batch(requests)
    assert len(batch) == len(requests)
    for request, made in zip(requests, batch, strict=True):
        if isinstance(made, Exception):
            (alone,) = preprocessor.process_batch([request])
            assert (type(alone), str(alone)) == (type(made), str(made))
            continue
        assert isinstance(request, TextRequest)
        ids = process(preprocessor, request).arrays["INPUT_ID"]
        assert made.arrays["INPUT_ID"].tolist() == ids.tolist()
    errors = [at for at, made in enumerate(batch) if isinstance(made, Exception)]
    n = len(HARD_TEXTS)
    assert errors == [n + 1, n + 3, n + 4]


def test_tensors_become_inputs() -> None:
    request = from_tensors(
        {
            "QUERY": np.array([[b"a"], [b"b"]], dtype=object),
            "MIN_LENGTH": np.array([[1], [2]], dtype=np.int32),
            "MIN_TOKENS": np.array([[3], [4]], dtype=np.int32),
            "STOP_WORDS_DICT": np.array([[b"x", b"y"], [b"z", b""]], dtype=object),
        },
        "id",
        {},
    )
    assert (request.rows, request.request_id) == (2, "id")
    assert request.inputs["text_input"] == [b"a", b"b"]
    assert request.inputs["min_tokens"] == [3, 4], "the newer name wins"
    assert request.inputs["stop_words"] == [[b"x", b"y"], [b"z", b""]]
    with pytest.raises(RequestError, match="text_input has the shape"):
        from_tensors({"QUERY": np.array([[b"a", b"b"]], dtype=object)}, "", {})


def test_logit_bias_is_added_by_token_id(bpe_dir: Path, contexts: ContextStore) -> None:
    preprocessor = make(bpe_dir, contexts, vocab_size="700")
    (a,) = preprocessor.tokenizer.encode("a", add_special_tokens=False)
    request = TextRequest(
        text_input=[b"a"], embedding_bias_words=[[b"a"]], embedding_bias_weights=[[2.0]],
        logit_bias_ids=[[a, 3]], logit_bias_values=[[1.0, -100.0]],
    )  # fmt: skip
    bias = process(preprocessor, request).arrays["EMBEDDING_BIAS"]
    expected = np.zeros((1, 700), dtype=np.float32)
    expected[0, a], expected[0, 3] = 3, -100
    assert bias.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        ([1, 2], [1.0], "2 ids and logit_bias_values has 1 values"),
        ([700], [1.0], "has the token 700, but vocab_size is 700"),
        ([-1], [1.0], "has the token -1"),
        ([1], [float("inf")], "not finite"),
        ([1] * 1001, [1.0] * 1001, "logit_bias_ids has 1001"),
    ],
)
def test_a_wrong_logit_bias_is_refused(
    bpe_dir: Path, contexts: ContextStore, ids: list[int], values: list[float], message: str
) -> None:
    request = TextRequest(text_input=[b"a"], logit_bias_ids=[ids], logit_bias_values=[values])
    with pytest.raises(RequestError, match=message):
        process(make(bpe_dir, contexts, vocab_size="700"), request)
