"""Guides in the engine transformers: masks, errors, bounds; and the engine with a tiny Llama."""

from __future__ import annotations

import itertools
import json
import queue
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from applicable import needs_engine

needs_engine()

import torch  # noqa: E402
import transformers  # noqa: E402

from guided import SCHEMAS  # noqa: E402
from trt_tokenizers.engines.base import (  # noqa: E402
    Chunk,
    FinishReason,
    GenerationRequest,
    validate,
)
from trt_tokenizers.engines.transformers import guides as limits  # noqa: E402
from trt_tokenizers.engines.transformers.engine import TransformersEngine  # noqa: E402
from trt_tokenizers.engines.transformers.guides import Guide, Guides  # noqa: E402
from trt_tokenizers.errors import RequestError  # noqa: E402

VOCAB = 640  # more than the tokenizer has, like many models
EOS = frozenset({2})
KEYS = itertools.count(1)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["서울", "🗼"]}, "n": {"type": "integer", "maximum": 9}},
    "required": ["name", "n"],
    "additionalProperties": False,
}
TAG = {
    "structures": [
        {"begin": "<f=a>", "schema": {"const": 1}, "end": "</f>"},
        {"begin": "<f=b>", "schema": {"const": 2}, "end": "</f>"},
    ],
    "triggers": ["<f="],
}


def request(kind: str = "", guide: str = "", **more: Any) -> GenerationRequest:
    values = {"prompt_ids": (5, 6), "max_tokens": 40, "end_ids": EOS, **more}
    return GenerationRequest(key=next(KEYS), guide=(kind, guide) if kind else None, **values)


@pytest.fixture(scope="module")
def tokenizer(bpe_dir: Path) -> Any:
    return Tokenizer.from_file(str(bpe_dir / "tokenizer.json"))


@pytest.fixture(scope="module")
def guides(bpe_dir: Path) -> Iterator[Guides]:
    made = Guides(str(bpe_dir), VOCAB, [2])
    yield made
    made.stop()


def compiled(guides: Guides, asked: GenerationRequest) -> Guide:
    """The guide, compiled where the engine does it."""
    made: queue.SimpleQueue[Guide | BaseException] = queue.SimpleQueue()

    def begin() -> None:
        try:
            made.put(guides.compile(asked))
        except BaseException as error:
            made.put(error)

    guides.submit(asked, begin)
    guide = made.get(timeout=60)
    if isinstance(guide, BaseException):
        raise guide
    return guide


def follows(guide: Guide, ids: list[int]) -> bool:
    """Whether *ids* is a whole answer: each is allowed, and then the answer may or does end."""
    mask = np.empty(guide.words, np.int32)
    for at in range(len(ids) + 1):
        if not guide.fill(mask, ids[:at]):
            return at == len(ids)
        allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")
        wanted = ids[at] if at < len(ids) else 2
        if not allowed[wanted]:
            return False
    return True


@pytest.mark.parametrize(
    ("kind", "guide", "right", "wrong"),
    [
        ("json", "", ['{"a": [1, null]}', "{}"], ["[]", "1", '{"a"', "{} {}"]),
        (
            "json_schema",
            json.dumps(SCHEMA),
            [
                '{"name": "서울", "n": 7}',
                '{"name":"🗼","n":-12}',
                '{\n  "name" : "🗼",\r\n\t"n":0\n}',
            ],
            [
                '{"name": "부산", "n": 7}',
                '{"name": "서울", "n": 10}',
                '{"name": "서울"}',
                '{"name": "서울",  "n": 7}',
                '{\n\n"name": "서울", "n": 7}',
            ],
        ),
        ("regex", r"^\d{2,3}[가-힣]+$", ["12개", "123조각"], ["1개", "12", "12a", "١٢개"]),
        ("regex", r"(?:👍🏽|/)\w", ["👍🏽a", "/_"], ["👍a", "/é"]),
        (
            "ebnf_grammar",
            'root ::= word ("," " "? word)*  # a list\nword ::= "가"+ # a "\n  | [^,#가-힣"\\\\]\n'
            '  | "\\u00e9\\x41"',
            ["가가, x", "éA,é", "y"],
            ["", "나", '"', "x,,y"],
        ),
        ("ebnf_grammar", 'root ::= "(" root ")" | [0-9]{2}', ["((12))"], ["((12)", "(1)"]),
        (
            "structural_tag",
            json.dumps(TAG),
            ["", "이 <f", "so <f=a>1</f> and <f=b>2</f>.", "<f=b>2</f>"],
            ["<f=c>1</f>", "so <f=a>2</f>", "<f=a>1", "<f="],
        ),
    ],
)
def test_answers_that_follow_a_guide(
    guides: Guides, tokenizer: Any, kind: str, guide: str, right: list[str], wrong: list[str]
) -> None:
    for text in right:
        assert follows(compiled(guides, request(kind, guide)), tokenizer.encode(text).ids), text
    for text in wrong:
        assert not follows(compiled(guides, request(kind, guide)), tokenizer.encode(text).ids), text


def tag(**values: Any) -> str:
    return json.dumps({"type": "structural_tag", "format": values})


A = {"type": "tag", "begin": "<a>", "content": {"type": "any_text"}, "end": "<|im_start|>"}
B = {"type": "tag", "begin": "<b", "content": {"type": "regex", "pattern": "x+"}, "end": ">"}
EBNF = {"type": "grammar", "grammar": 'root ::= "1" "2"'}


@pytest.mark.parametrize(
    ("guide", "right", "wrong"),
    [
        (tag(type="sequence", elements=[A, B]), ["<a>é<|im_start|><bx>"], ["<a>é<bx>"]),
        (tag(type="or", elements=[EBNF, B]), ["12", "<bxx>"], ["1", "12<bx>"]),
        (
            tag(type="triggered_tags", triggers=["<"], tags=[A, B], at_least_one=True),
            ["a <bx> b <a><|im_start|>"],
            ["a", "a <c"],
        ),
        (
            tag(type="triggered_tags", triggers=["<b"], tags=[B], stop_after_first=True),
            ["a <bx>", "a"],
            ["a <bx> "],
        ),
        (tag(type="const_string", value='"\n<|im_start|>'), ['"\n<|im_start|>'], ['"\n']),
        (tag(type="json_schema", json_schema={"type": "array"}), ["[1,\n\t2]"], ["[1,  2]"]),
    ],
)
def test_formats_of_structural_tags(
    guides: Guides, tokenizer: Any, guide: str, right: list[str], wrong: list[str]
) -> None:
    for text in right:
        made = compiled(guides, request("structural_tag", guide))
        assert follows(made, tokenizer.encode(text).ids), text
    for text in wrong:
        made = compiled(guides, request("structural_tag", guide))
        assert not follows(made, tokenizer.encode(text).ids), text


@pytest.mark.parametrize(
    ("kind", "guide", "message"),
    [
        ("json_schema", '{"type": "object"', "Expecting ',' delimiter: line 1 column 18"),
        ("json_schema", '{"type": "strin"}', "Invalid type: strin"),
        ("json_schema", '{"not": {}}', 'Unimplemented keys: ["not"]'),
        ("json_schema", '{"$ref": "#/a"}', "Pointer '/a' does not exist"),
        ("json_schema", '{"items":' * 6000 + "{}" + "}" * 6000, "nested too deep"),
        ("json_schema", "3", "must be an object or boolean"),
        ("regex", "a(b", "error: unclosed group"),
        ("regex", "(?=a)b", "look-ahead"),
        ("ebnf_grammar", 'root ::= "a" b', "Rule 'b' not found"),
        ("ebnf_grammar", 'a ::= "a"', "No 'root' rule"),
        ("ebnf_grammar", 'root ::= b\nb ::= "a', "Unexpected end of input at line 2"),
        ("ebnf_grammar", "root ::= " + "(" * 10**4 + "a", "nested too deep"),
        ("structural_tag", "{}", 'no JSON object with "format"'),
        ("structural_tag", tag(type="token"), "format 'token' is not supported"),
        ("structural_tag", tag(type="tag", begin="a"), "a part of it has no 'end'"),
        ("structural_tag", json.dumps(TAG | {"triggers": ["<g"]}), "starts with one of its trig"),
        ("structural_tag", json.dumps(TAG | {"structures": [3]}), "value of the wrong type"),
    ],
)
def test_a_guide_that_does_not_compile(guides: Guides, kind: str, guide: str, message: str) -> None:
    with pytest.raises(RequestError) as error:
        compiled(guides, request(kind, guide))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_long_chain_of_references_does_not_end_the_process(guides: Guides) -> None:
    """llguidance recurses into each one; with a stack of 8 MiB this is a segmentation fault."""
    refs = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(1450)}
    schema = {"$defs": {**refs, "d1450": {}}, "$ref": "#/$defs/d0"}
    text = json.dumps(schema, separators=(",", ":"))
    made = compiled(guides, request("json_schema", text))
    assert made.fill(np.empty(made.words, np.int32), [])


def test_sentencepiece_without_tokenizer_json(sentencepiece_dir: Path) -> None:
    guides = Guides(str(sentencepiece_dir), 400, [2])
    made = compiled(guides, request("regex", "Aé[가-힣]"))
    mask = np.empty(made.words, np.int32)
    text, ids = b"", []
    while made.fill(mask, ids):
        allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")
        ids.append(int(allowed.argmax()))
        text = guides._tokenizer.decode_bytes(ids)
    assert text.decode().startswith("Aé")
    assert len(text.decode()) == 3
    guides.stop()


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    guides = Guides(str(tmp_path), VOCAB, [2])
    with pytest.raises(RequestError, match=r"cannot follow guides: the tokenizer in .* not load"):
        compiled(guides, request("json"))
    guides.stop()


# The engine.


@pytest.fixture(scope="module")
def engine(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersEngine]:
    folder = tmp_path_factory.mktemp("guided")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
        initializer_range=0.3,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for file in bpe_dir.iterdir():
        shutil.copy(file, folder)
    engine = TransformersEngine({"model_dir": str(folder), "device": "cpu"})
    yield engine
    engine.stop()


def begin(engine: TransformersEngine, asked: GenerationRequest) -> queue.SimpleQueue[Chunk]:
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    validate(asked, engine)
    engine.submit(asked, chunks.put)
    return chunks


def rest(chunks: queue.SimpleQueue[Chunk]) -> tuple[list[int], Chunk]:
    ids: list[int] = []
    while True:
        chunk = chunks.get(timeout=60)
        ids += chunk.token_ids
        if chunk.last:
            return ids, chunk


SAMPLED = {"temperature": 1.0, "given": frozenset({"temperature"})}


def test_the_same_text_alone_and_in_a_batch(engine: TransformersEngine, tokenizer: Any) -> None:
    def asked(seed: int, **more: Any) -> GenerationRequest:
        return request("json_schema", json.dumps(SCHEMA), max_tokens=100, seed=seed, **SAMPLED)

    alone = [rest(begin(engine, asked(seed)))[0] for seed in range(4)]
    plain = request(seed=1, **SAMPLED)
    free = rest(begin(engine, plain))[0]
    open_ = [begin(engine, r) for r in (plain, *map(asked, range(4)), request("json", seed=5))]
    together = [rest(chunks)[0] for chunks in open_]
    assert together[:5] == [free, *alone]
    for ids in alone:
        found = json.loads(tokenizer.decode(ids))
        assert found["name"] in SCHEMA["properties"]["name"]["enum"]  # type: ignore[index]
        assert found["n"] <= 9


def test_answers_to_60_schemas_alone_and_among_32(engine: TransformersEngine) -> None:
    """Each is once whole and once streamed."""
    schemas = [json.dumps(schema) for schema in SCHEMAS.values()]

    def asked(at: int, *, stream: bool) -> GenerationRequest:
        more = {"max_tokens": 16, "seed": at, "stream": stream, **SAMPLED}
        return request("json_schema", schemas[at], **more)

    numbers = range(len(schemas))
    open_ = [begin(engine, asked(at, stream=at % 2 == 0)) for at in numbers]
    among = [rest(chunks)[0] for chunks in open_]
    alone = [rest(begin(engine, asked(at, stream=at % 2 == 1)))[0] for at in numbers]
    assert among == alone
    assert engine.max_batch_size == 32


@pytest.mark.parametrize(
    ("guide", "more", "text", "reason"),
    [
        ("[0-9]{4}", {}, r"\d{4}", "STOP"),
        ("[0-9]{4}", {"end_ids": frozenset()}, r"\d{4}", "STOP"),
        ("[0-9]{4}", {"min_tokens": 20}, r"\d{4}", "STOP"),
        ("[0-9]{4,}", {"min_tokens": 30}, r"\d{30,}", "STOP"),
        ("[0-9]{50}", {"max_tokens": 10}, r"\d{10,}", "LENGTH"),
        ("[0-9]{9}x[0-9]+", {"stop_words": (b"x",)}, r"\d{9}x", "STOP"),
    ],
)
def test_ends(
    engine: TransformersEngine, tokenizer: Any, guide: str, more: Any, text: str, reason: str
) -> None:
    if words := more.get("stop_words"):
        more = {**more, "stop_words": tuple(tuple(tokenizer.encode(w.decode()).ids) for w in words)}
    ids, last = rest(begin(engine, request("regex", guide, **more)))
    assert re.fullmatch(text, tokenizer.decode(ids, skip_special_tokens=True))
    assert last.finish_reason is FinishReason[reason]


def test_errors_of_one_request(
    engine: TransformersEngine, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guide that does not compile, one that explodes, and one that bad words contradict are
    refused; the request beside them is not affected."""
    monkeypatch.setattr(limits, "_ANSWER_S", 0.1)
    monkeypatch.setattr(limits, "_TOKEN_S", 0.002)
    other = request(max_tokens=30)
    expected = rest(begin(engine, other))[0]
    open_ = [begin(engine, other)]
    digits = tuple((i,) for i in tokenizer.encode("7").ids)
    explosion = 'root ::= root root | "a" | root root root | ""'
    open_ += [
        begin(engine, request("regex", "(")),
        begin(engine, request("ebnf_grammar", explosion, max_tokens=400, end_ids=frozenset())),
        begin(engine, request("regex", "a7", bad_words=digits)),
    ]
    found = [rest(chunks) for chunks in open_]
    assert found[0][0] == expected
    for (_, last), message in zip(
        found[1:], ("unclosed group", "too complex", "exclude all tokens"), strict=True
    ):
        assert message in str(last.error)
        assert last.refused
    with pytest.raises(RequestError, match="did you mean 'regex'"):
        begin(engine, request("regexp", "a"))


def test_a_long_guide_does_not_delay_short_ones(engine: TransformersEngine) -> None:
    """Each long one takes 0.1 s to compile, one after another."""
    names = [f"property {at}" for at in range(1000)]
    schema = {"properties": {name: {"pattern": "^[a-z]+$"} for name in names}, "required": names}
    guide = json.dumps(schema, separators=(",", ":"))
    long = [begin(engine, request("json_schema", guide, max_tokens=3)) for _ in range(12)]
    assert rest(begin(engine, request("regex", "[0-9]{4}")))[1].finish_reason is FinishReason.STOP
    assert long[-1].empty()
    assert {rest(chunks)[1].error for chunks in long} == {None}


def test_a_cancel_while_the_guide_is_compiled(engine: TransformersEngine) -> None:
    """Other requests do not wait for the compiler."""
    busy: queue.SimpleQueue[None] = queue.SimpleQueue()
    engine._guides.submit(request("json"), busy.get)
    waiting, cancelled = request("json", max_tokens=3), request("json")
    first, second = begin(engine, waiting), begin(engine, cancelled)
    assert len(rest(begin(engine, request(max_tokens=3)))[0]) == 3
    engine.cancel(cancelled.key)
    assert rest(second)[1].finish_reason is FinishReason.CANCELLED
    assert first.empty()
    busy.put(None)
    assert len(rest(first)[0]) == 3
    assert second.empty()
