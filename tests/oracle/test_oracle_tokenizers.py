"""Ids, texts and streams of real tokenizers compared with transformers or the maker's library.

If the two differ, the maker's library is the reference. T5's is SentencePiece: transformers
resolves ties between segmentations differently, and normalizes by grapheme. docs/tokenizers.md
lists all differences.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import shutil
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings

from corpus import ANY_TEXT, texts
from trt_tokenizers.repository.demo_model import demo_model
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.inspection import pieces
from trt_tokenizers.tokenizers.registry import create
from trt_tokenizers.tokenizers.split_long_text import pieces as in_pieces

TEXTS = texts()


@dataclass
class Pair:
    """Our tokenizer and the reference: encode(text, special) and decode(ids, skip)."""

    ours: Tokenizer
    encode: Callable[[str, bool], Sequence[int]]
    decode: Callable[[list[int], bool], str | None]  # None: unknown
    special: tuple[str, ...] = ()  # tokens that the reference also finds in a text


def hugging_face(folder: Path, kind: str = "auto", *, special: tuple[str, ...] = ()) -> Pair:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if (folder / "tokenizer_config.json").is_file():
        oracle = AutoTokenizer.from_pretrained(folder)
    else:
        oracle = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return Pair(
        create(TokenizerSettings(str(folder), kind)),
        lambda text, add: oracle(text, add_special_tokens=add)["input_ids"],
        lambda ids, skip: oracle.decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        ),
        special,
    )


def smollm2(references: Path, work: Path) -> Pair:
    model = demo_model(print)
    shutil.copy(model / "tokenizer.json", work)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 4 does not know 5's name
    (work / "tokenizer_config.json").write_text(json.dumps(config))
    return hugging_face(work, special=("<|im_start|>", "<|im_end|>", "<|endoftext|>"))


def gpt2(references: Path, work: Path) -> Pair:
    from transformers import GPT2Tokenizer

    oracle = GPT2Tokenizer.from_pretrained(references / "gpt2")
    return Pair(
        create(TokenizerSettings(str(references / "gpt2"), "gpt2")),
        # By default transformers adds no BOS for GPT-2; type gpt2 adds one.
        lambda text, add: (
            [50256] * (add and not text.startswith("<|endoftext|>")) + oracle(text)["input_ids"]
        ),
        lambda ids, skip: oracle.decode(ids, skip_special_tokens=skip),
        ("<|endoftext|>",),
    )


def claude2(references: Path, work: Path) -> Pair:
    return hugging_face(references / "claude2", special=("<EOT>", "<META>"))


def deepseek(references: Path, work: Path) -> Pair:
    return hugging_face(
        references / "deepseek", special=("<｜begin▁of▁sentence｜>", "<｜User｜>", "<think>")
    )


def _maker(references: Path, module: str) -> Any:
    import importlib

    folder = str(references / "makers")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(module)


def _llama(references: Path, name: str) -> Pair:
    folder = references / name
    maker = _maker(references, f"llama_models.{name}.tokenizer")
    oracle = maker.Tokenizer(folder / "tokenizer.model")
    ours = create(TokenizerSettings(str(folder)))

    def decode(ids: list[int], skip: bool) -> str:
        special = set(oracle.special_tokens.values())
        return str(oracle.decode([i for i in ids if not (skip and i in special)]))

    return Pair(
        ours,
        lambda text, add: oracle.encode(text, bos=add, eos=False, allowed_special="all"),
        decode,
        tuple(oracle.special_tokens),
    )


def llama3(references: Path, work: Path) -> Pair:
    return _llama(references, "llama3")


def llama4(references: Path, work: Path) -> Pair:
    return _llama(references, "llama4")


def qwen1(references: Path, work: Path) -> Pair:
    folder = references / "qwen1"
    maker = _maker(references, "dashscope_tokenizers.qwen_tokenizer")
    oracle = maker.QwenTokenizer(str(folder / "qwen.tiktoken"))
    return Pair(
        create(TokenizerSettings(str(folder))),
        lambda text, add: oracle.encode(text, allowed_special="all"),
        lambda ids, skip: oracle.decode([i for i in ids if not (skip and i >= 151643)]),
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_204|>"),
    )


def _mistral(work: Path, name: str, target: str) -> Pair:
    mistral_common = pytest.importorskip("mistral_common")
    from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    path = work / target
    shutil.copy(Path(mistral_common.__file__).parent / "data" / name, path)
    tekken = target.endswith(".json")
    oracle = Tekkenizer.from_file(path) if tekken else SentencePieceTokenizer(path)

    def decode(ids: list[int], skip: bool) -> str | None:
        if skip:
            return str(oracle.decode(ids, special_token_policy=SpecialTokenPolicy.IGNORE))
        # With KEEP the SentencePiece tokenizer returns pieces instead of text.
        return (
            str(oracle.decode(ids, special_token_policy=SpecialTokenPolicy.KEEP))
            if tekken
            else None
        )

    return Pair(
        create(TokenizerSettings(str(work), "mistral")),
        lambda text, add: oracle.encode(text, bos=add, eos=False),
        decode,
    )


def mistral_v1(references: Path, work: Path) -> Pair:
    return _mistral(work, "tokenizer.model.v1", "tokenizer.model.v1")


def mistral_v2(references: Path, work: Path) -> Pair:
    return _mistral(work, "mistral_instruct_tokenizer_240216.model.v2", "tokenizer.model.v2")


def mistral_v3(references: Path, work: Path) -> Pair:
    return _mistral(work, "mistral_instruct_tokenizer_240323.model.v3", "tokenizer.model.v3")


def mistral_v7(references: Path, work: Path) -> Pair:
    return _mistral(work, "mistral_instruct_tokenizer_241114.model.v7", "tokenizer.model")


def tekken_nemo(references: Path, work: Path) -> Pair:
    return _mistral(work, "tekken_240718.json", "tekken.json")


def tekken_pixtral(references: Path, work: Path) -> Pair:
    return _mistral(work, "tekken_240911.json", "tekken.json")


def t5(references: Path, work: Path) -> Pair:
    """Trained here like T5's: unigram, NMT-NFKC, collapsed spaces, <pad>, </s> and <unk> first."""
    from transformers import T5TokenizerFast

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([t for t in TEXTS[:400] if "\0" not in t] * 2),
        model_writer=model, vocab_size=900, model_type="unigram", pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (work / "spiece.model").write_bytes(model.getvalue())
    oracle = T5TokenizerFast.from_pretrained(work)
    maker = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    special = ("<extra_id_0>", "<extra_id_99>", "</s>", "<pad>")

    def encode(text: str, add: bool) -> list[int]:
        if any(token in text for token in special):
            return list(oracle(text, add_special_tokens=add)["input_ids"])
        return [*maker.encode(text), *([1] if add else [])]

    agree = sum(encode(text, True) == oracle(text)["input_ids"] for text in TEXTS)
    assert agree > 0.97 * len(TEXTS)
    return Pair(
        create(TokenizerSettings(str(work), "t5")),
        encode,
        lambda ids, skip: oracle.decode(ids, skip_special_tokens=skip),
        special,
    )


def llama2_json(references: Path, work: Path) -> Pair:
    """Mistral's first SentencePiece file, converted like Llama 2's tokenizer.json."""
    mistral_common = pytest.importorskip("mistral_common")
    from tokenizers import normalizers, processors
    from transformers import LlamaTokenizerFast

    model = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
    shutil.copy(model, work / "tokenizer.model")
    backend = LlamaTokenizerFast.from_pretrained(work).backend_tokenizer
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    state = json.loads(backend.to_str())
    (work / "tokenizer.json").write_text(json.dumps({**state, "pre_tokenizer": None}))
    (work / "tokenizer.model").unlink()
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (work / "tokenizer_config.json").write_text(json.dumps(config))
    return hugging_face(work, special=tuple(names.values()))


def t5_json(references: Path, work: Path) -> Pair:
    """The unigram model as transformers saves it; its streams use the window decoder."""
    from transformers import T5TokenizerFast

    t5(references, work)
    T5TokenizerFast.from_pretrained(work).backend_tokenizer.save(str(work / "tokenizer.json"))
    (work / "spiece.model").unlink()
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (work / "tokenizer_config.json").write_text(json.dumps(config))
    return hugging_face(work, "t5", special=("<extra_id_0>", *names.values()))


def trained_bpe(references: Path, work: Path) -> Pair:
    """Like Llama 3's and Qwen 2's: its own pattern, NFC, BOS by the post-processor."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    pattern = r"'s|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        TEXTS[:600],
        trainers.BpeTrainer(
            vocab_size=1500,
            special_tokens=["<|begin|>", "<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    backend.save(str(work / "tokenizer.json"))
    names = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (work / "tokenizer_config.json").write_text(json.dumps(config))
    return hugging_face(work, special=tuple(names.values()))


TOKENIZERS = [
    smollm2, gpt2, claude2, deepseek, llama3, llama4, qwen1, mistral_v1, mistral_v2, mistral_v3,
    mistral_v7, tekken_nemo, tekken_pixtral, llama2_json, t5, t5_json, trained_bpe,
]  # fmt: skip


@pytest.fixture(scope="module", params=TOKENIZERS, ids=lambda make: make.__name__)
def pair(
    request: pytest.FixtureRequest, references: Path, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    name = request.param.__name__
    made: Pair = request.param(references, tmp_path_factory.mktemp(name))
    return made


def check(pair: Pair, text: str) -> None:
    for add in (True, False):
        ids = pair.ours.encode(text, add_special_tokens=add)
        assert ids == list(pair.encode(text, add)), (text, add)
        for skip in (True, False):
            whole = pair.ours.decode(ids, skip_special_tokens=skip)
            assert pair.decode(ids, skip) in (whole, None), (text, skip)
            assert streamed(pair.ours, ids, skip, seed=text) == whole, (text, skip)


def streamed(
    tokenizer: Tokenizer, ids: Sequence[int], skip: bool, *, seed: object, first: bool = True
) -> str:
    """The text of a stream of *ids*, randomly divided."""
    cuts = random.Random(seed).choices((1, 1, 1, 2, 3, 7), k=len(ids))
    stream = tokenizer.stream(skip_special_tokens=skip, first=first)
    feed = iter(ids)
    parts = [stream.feed(list(itertools.islice(feed, cut))) for cut in cuts]
    return "".join(parts) + stream.finish()


def test_two_thousand_texts(pair: Pair) -> None:
    for text in TEXTS:
        check(pair, text)
    batch = pair.ours.encode_batch(TEXTS)
    assert batch == [pair.ours.encode(text) for text in TEXTS]


def test_long_texts(pair: Pair) -> None:
    """Some types encode them in pieces."""
    for at in range(8):
        text = " ".join(TEXTS[at::8])
        assert len(in_pieces(text)) > 2
        check(pair, text)


def test_random_ids(pair: Pair) -> None:
    """Models may generate incomplete characters, special tokens anywhere, and unknown ids."""
    random_ = random.Random(3)
    known = sorted({i for text in TEXTS[:300] for i in pair.ours.encode(text)})
    same = 0
    for _ in range(1000):
        ids = [random_.choice(known) for _ in range(random_.randint(1, 12))]
        for skip in (True, False):
            whole = pair.ours.decode(ids, skip_special_tokens=skip)
            assert streamed(pair.ours, ids, skip, seed=str(ids)) == whole, (ids, skip)
            expected = pair.decode(ids, skip)
            # For invalid UTF-8 libraries give different numbers of U+FFFD.
            same += expected == whole
            assert expected is None or "\ufffd" in expected or expected == whole, (ids, skip)
    assert same > 500
    beyond = [10**6, -1]
    assert pair.ours.decode([*known[:5], *beyond]) == pair.ours.decode(known[:5])


def test_an_answer_that_continues_a_text(pair: Pair) -> None:
    """Its stream gives the text that the reference's decode of both adds to the first text."""
    before = pair.ours.encode("one two", add_special_tokens=False)
    text = pair.decode(before, True)
    spaces = 0
    for answer in TEXTS[::8]:
        ids = pair.ours.encode(answer, add_special_tokens=False)
        whole = pair.decode([*before, *ids], True)
        if text is None or whole is None or "\ufffd" in whole:
            continue
        given_ = streamed(pair.ours, ids, True, seed=answer, first=False)
        assert text + given_ == whole, answer
        spaces += given_.startswith(" ")
    assert spaces or text is None


def test_offsets_are_the_librarys(pair: Pair) -> None:
    """Without offsets of the library each token follows the one before it."""
    for text in TEXTS[::4]:
        ids = pair.ours.encode(text, add_special_tokens=False)
        offsets = pair.ours.offsets(text)
        found = pieces(pair.ours, text, ids)
        if offsets is None:
            ends = [piece.end for piece in found if piece.end is not None]
            assert ends == sorted(ends)
            assert not unicodedata.is_normalized("NFC", text) or ends[-1] == len(text)
            continue
        expected = [(i, *((a, b) if a < b else (None, None))) for i, a, b in offsets]
        assert [(piece.id, piece.start, piece.end) for piece in found] == expected


def test_special_tokens_in_a_text(pair: Pair) -> None:
    for token in pair.special:
        for text in (token, f"{token}a b", f"a{token}b", f"{token}{token} {token}\n"):
            check(pair, text)


@settings(max_examples=50)
@given(text=ANY_TEXT)
def test_any_text(pair: Pair, text: str) -> None:
    check(pair, text)


def test_several_bos_stay_if_the_model_wants_none(references: Path, tmp_path: Path) -> None:
    """SmolLM2's BOS begins every turn of its chat template, so two may be adjacent."""
    pair = smollm2(references, tmp_path)
    assert (pair.ours.bos_id, pair.ours.adds_bos) == (1, False)
    for text in ("<|im_start|><|im_start|>user", "<|im_start|>user", "user"):
        for add in (True, False):
            ids = pair.ours.encode_prompts([text], add_special_tokens=add, ensure_bos=True)[0]
            assert ids == list(pair.encode(text, add))


def test_mistral_control_tokens_in_a_text(references: Path, tmp_path: Path) -> None:
    """mistral-common's message types insert them as ids; templates write them as text."""
    pair = mistral_v3(references, tmp_path)
    inst, end = (pair.ours.encode(t, add_special_tokens=False) for t in ("[INST]", "[/INST]"))
    assert (len(inst), len(end)) == (1, 1)
    assert pair.ours.encode("[INST] hi[/INST]") == [1, *inst, *pair.encode("hi", False), *end]


def test_ids_that_end_an_answer(references: Path) -> None:
    assert llama3(references, references).ours.eos_ids == (128001, 128008, 128009)
    assert qwen1(references, references).ours.eos_ids == (151643, 151645)
    assert llama4(references, references).ours.eos_ids == (200001, 200007, 200008)
