"""Types other than llama and gpt2, the common settings, and the selection by auto."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from texts import HARD_TEXTS
from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.processing.preprocess import EngineRequest, PreprocessingSettings, Preprocessor
from trt_tokenizers.processing.request import TextRequest
from trt_tokenizers.streams.context_store import ContextStore
from trt_tokenizers.tokenizers.auto import choose
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.byte import ByteTokenizer
from trt_tokenizers.tokenizers.cleanup import CleanedUp, clean_up
from trt_tokenizers.tokenizers.registry import create
from trt_tokenizers.tokenizers.tiktoken import bounded_runs


def load(folder: Path, kind: str = "auto", **more: object) -> Tokenizer:
    return create(TokenizerSettings(str(folder), kind, **more))


def test_tiktoken_with_its_own_pattern(ranks_dir: Path) -> None:
    tokenizer = load(ranks_dir, tiktoken_pattern=r"\s+|\S+")
    assert tokenizer.encode("hell<|end|>o") == [256, 257, 258, 111]
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id) == (None, (258,), 258)
    for text in HARD_TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([256, 258, -1, 10**6]) == "he"
    assert tokenizer.decode([256, 258], skip_special_tokens=False) == "he<|end|>"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("", "has 258 ranks, which no known model family has; set tiktoken_pattern to qwen"),
     ("(", "tiktoken_pattern '\\('.* does not compile")],
)  # fmt: skip
def test_a_bad_pattern_is_refused(ranks_dir: Path, pattern: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load(ranks_dir, "tiktoken", tiktoken_pattern=pattern)


def test_a_broken_rank_file_is_named(ranks_dir: Path) -> None:
    path = ranks_dir / "mini.tiktoken"
    path.write_text(path.read_text() + "\n???")
    with pytest.raises(TokenizerError, match=r"mini\.tiktoken is not a rank file"):
        load(ranks_dir, "tiktoken", tiktoken_pattern="gpt2")
    path.unlink()
    with pytest.raises(TokenizerError, match="needs one rank file"):
        load(ranks_dir, "tiktoken")


@pytest.mark.parametrize("character", [" ", "a", "\n"])
def test_long_runs_do_not_end_the_process(ranks_dir: Path, character: str) -> None:
    """tiktoken's regular expressions overflow their stack on a million spaces."""
    tokenizer = load(ranks_dir, tiktoken_pattern="llama3")
    text = f"x{character * 300_000}x"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_runs_are_split_as_llama_3_splits_them() -> None:
    text = "a" * 60_000 + " " * 25_000 + "b"
    assert [len(piece) for piece in bounded_runs(text)] == [25_000, 25_000, 35_001]
    assert list(bounded_runs("a b")) == ["a b"]


def test_an_answer_that_continues_a_text_keeps_its_first_space(tmp_path: Path) -> None:
    """The library's decoder drops the space of the first token: unigram with metaspace."""
    pieces = ["<unk>", "</s>", "\u2581", "a", "\u2581hello", "\u2581world"]
    library = tokenizers.Tokenizer(models.Unigram([(p, -1.0) for p in pieces], unk_id=0))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    library.add_special_tokens(["</s>"])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load(tmp_path)
    whole = library.decode([3, 4, 5])
    for ids in ([4, 5], [1, 4, 5]):
        goes_on, begins = (tokenizer.stream(first=first) for first in (False, True))
        texts = ["".join([*(s.feed([i]) for i in ids), s.finish()]) for s in (goes_on, begins)]
        assert [library.decode([3]) + texts[0], texts[1]] == [whole, "hello world"]
    clean = load(tmp_path, clean_up_tokenization_spaces=True).stream(first=False)
    assert clean.feed([4, 5]) + clean.finish() == " hello world"


def test_byte_is_utf8(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, "byte", extra_eos_ids=(0,))
    assert tokenizer.encode("é\0") == [0xC3, 0xA9, 0]
    assert tokenizer.decode([0xC3, 0xA9, 256, 65]) == "éA"
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id) == (None, (0,), 0)


@pytest.mark.parametrize(("older", "name"), [("sp", "sentencepiece"), ("gpt", "gpt2")])
def test_older_names_work_and_are_logged(
    sentencepiece_dir: Path, gpt2_dir: Path, caplog: pytest.LogCaptureFixture, older: str, name: str
) -> None:
    folder = sentencepiece_dir if older == "sp" else gpt2_dir
    with caplog.at_level(logging.INFO, "trt_tokenizers"):
        tokenizer = load(folder, older)
    assert type(tokenizer) is type(load(folder, name))
    assert f"tokenizer type {older} is the older name of {name}" in caplog.text


@pytest.mark.parametrize(
    ("files", "config", "name"),
    [
        (["tokenizer.json", "tekken.json"], {}, "tokenizers"),
        (["tekken.json", "tokenizer.model"], {}, "mistral"),
        (["qwen.tiktoken"], {"tokenizer_class": "QWenTokenizer"}, "tiktoken"),
        (["tokenizer.model"], {"tokenizer_class": "LlamaTokenizerFast"}, "llama"),
        (["spiece.model"], {"tokenizer_class": "T5Tokenizer"}, "t5"),
        (["tokenizer.model.v3"], {}, "mistral"),
        (["tokenizer.model"], {}, "sentencepiece"),
        (["tokenizer.model"], {"tokenizer_class": "GemmaTokenizer"}, "transformers"),
        (["vocab.json", "merges.txt"], {"tokenizer_class": "GPT2Tokenizer"}, "gpt2"),
        (["encoder.json", "vocab.bpe"], {}, "gpt2"),
        (["vocab.json", "merges.txt", "config.json"], {}, "transformers"),
        (["vocab.json", "merges.txt"], {"tokenizer_class": "RobertaTokenizer"}, "transformers"),
        ([], {}, "transformers"),
    ],
)
def test_auto_selects(tmp_path: Path, files: list[str], config: dict, name: str) -> None:
    for file in files:
        (tmp_path / file).write_text("AA== 0\n" if file.endswith("tiktoken") else "")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert choose(tmp_path)[0] == name


def test_auto_reads_gpt2s_files_as_transformers(gpt2_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for file in gpt2_dir.iterdir():
        shutil.copy(file, tmp_path)
    for config in ({}, {"add_prefix_space": True}):
        content = {"tokenizer_class": "GPT2Tokenizer", **config}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
        oracle, ours = AutoTokenizer.from_pretrained(tmp_path), load(tmp_path)
        for text in HARD_TEXTS:
            assert ours.encode(text) == oracle(text)["input_ids"], (text, config)
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert load(tmp_path, "gpt2").encode("a") == load(tmp_path).encode("a")
    assert load(tmp_path, "gpt2", add_bos=True).encode("a")[0] == load(tmp_path).bos_id


def test_a_folder_without_a_tokenizer_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"has no tokenizer \(tokenizer\.json.*; set") as none:
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(TokenizerError, match="cannot load") as useless:
        load(tmp_path)
    assert not any("\n" in str(error.value) for error in (none, useless))


def test_a_rank_file_named_tokenizer_model(ranks_dir: Path) -> None:
    """Llama 3's original file: type llama reads it, and type sentencepiece names the right type."""
    (ranks_dir / "mini.tiktoken").rename(ranks_dir / "tokenizer.model")
    assert load(ranks_dir, "llama", tiktoken_pattern="llama3").encode("he") == [
        258,
        256,
    ]  # BOS first
    with pytest.raises(TokenizerError, match="rank file: set tokenizer_type to tiktoken"):
        load(ranks_dir, "sentencepiece")


def test_type_transformers_encodes_a_batch(sentencepiece_dir: Path) -> None:
    tokenizer = load(sentencepiece_dir, "transformers", add_eos=True)
    for special in (True, False):
        batch = tokenizer.encode_batch(HARD_TEXTS, add_special_tokens=special)
        assert batch == [tokenizer.encode(t, add_special_tokens=special) for t in HARD_TEXTS]


def test_type_transformers_reads_a_model_file_without_sentencepieces_protobuf_module(
    sentencepiece_dir: Path,
) -> None:
    """As with sentencepiece 0.2.3 and protobuf 6, which a plain installation has."""
    code = (
        "import sys; sys.modules['sentencepiece.sentencepiece_model_pb2'] = None\n"
        "sys.modules['torch'] = None  # transformers starts faster without it\n"
        "from trt_tokenizers.tokenizers.base import TokenizerSettings\n"
        "from trt_tokenizers.tokenizers.registry import create\n"
        f"made = [create(TokenizerSettings({str(sentencepiece_dir)!r}, kind))"
        " for kind in ('transformers', 'llama')]\n"
        "assert made[0].encode('hello there') == made[1].encode('hello there')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_use_fast_is_explained(bpe_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "trt_tokenizers"):
        load(bpe_dir, "gpt2", use_fast=False)
    assert "use_fast is false, but tokenizer type gpt2 has no slow implementation" in caplog.text


def test_auto_logs_its_selection_and_the_reason(
    bpe_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "trt_tokenizers"):
        load(bpe_dir)
    assert f"tokenizer type auto: tokenizers, because {bpe_dir} has tokenizer.json" in caplog.text


def test_settings_of_ends_and_padding(bpe_dir: Path, sentencepiece_dir: Path) -> None:
    tokenizer = load(bpe_dir, add_eos=True, extra_eos_ids=(7, 0), pad_id=9)
    assert tokenizer.encode("a")[-1] == 2
    assert (tokenizer.eos_ids, tokenizer.pad_id) == ((2, 0, 7), 9)
    assert load(sentencepiece_dir, "llama", add_eos=True).encode("a")[-1] == 2
    for wrong in ({"pad_id": -1}, {"extra_eos_ids": (3, -2)}):
        with pytest.raises(TokenizerError, match="ids must be 0 or more"):
            load(bpe_dir, **wrong)
    with pytest.raises(TokenizerError, match=r"add_eos is true but .* has no EOS"):
        load(bpe_dir, "byte", add_eos=True)


def test_add_eos_false_removes_the_eos_that_the_file_adds(bpe_dir: Path, tmp_path: Path) -> None:
    import tokenizers
    from tokenizers.processors import TemplateProcessing

    backend = tokenizers.Tokenizer.from_file(str(bpe_dir / "tokenizer.json"))
    backend.post_processor = TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", 2)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    assert load(tmp_path).encode("a")[-1] == 2
    assert load(tmp_path, add_eos=False).encode("a") == load(bpe_dir).encode("a")


def test_legacy_adds_a_space_after_special_tokens(sentencepiece_dir: Path) -> None:
    plain, legacy = (load(sentencepiece_dir, "llama", legacy=on) for on in (False, True))
    assert plain.encode("</s>a") != legacy.encode("</s>a")
    assert legacy.encode("</s>a") == plain.encode("</s> a")


CLEANABLE = st.lists(
    st.sampled_from(["a", "don", " ", "  ", "'", " '", "n't", " n", "t", "s", ".", ",", "é"])
)


@given(words=CLEANABLE, cuts=st.lists(st.integers(1, 3), min_size=1))
def test_cleaned_up_streams_equal_the_cleaned_up_text(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], cuts: list[int]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    tokenizer = load(folder, "byte", clean_up_tokenization_spaces=True)
    assert isinstance(tokenizer, CleanedUp)
    text = "".join(words)
    ids = tokenizer.encode(text)
    stream, feed, parts = tokenizer.stream(), iter(ids), []
    for cut in itertools.cycle(cuts):
        part = list(itertools.islice(feed, cut))
        if not part:
            break
        parts.append(stream.feed(part))
    assert "".join(parts) + stream.finish() == tokenizer.decode(ids) == clean_up(text)


@pytest.mark.parametrize("letters", [" 'nt", " 'nst.", " 'rem"])
def test_short_texts_of_the_rules_characters_are_cleaned_up_in_streams(
    tmp_path: Path, letters: str
) -> None:
    """All of them, one id at a time; texts that once failed also in two parts of any length."""
    tokenizer = load(tmp_path, "byte", clean_up_tokenization_spaces=True)
    longest = 7 if len(letters) < 5 else 6
    for text in map("".join, itertools.product(letters, repeat=longest)):
        ids = tokenizer.encode(text)
        whole, stream = clean_up(text), tokenizer.stream()
        assert "".join([*(stream.feed([i]) for i in ids), stream.finish()]) == whole, text
    for text in ("m' n ' t 'em", "a n ' t", "a n ' to n '", "n ' t", "  n '  t . n 't"):
        ids = tokenizer.encode(text)
        for cut in range(len(ids) + 1):
            stream = tokenizer.stream()
            parts = [stream.feed(ids[:cut]), stream.feed(ids[cut:]), stream.finish()]
            assert "".join(parts) == tokenizer.decode(ids) == clean_up(text), (text, cut)


def test_clean_up_keeps_the_attributes_of_a_plugins_class(tmp_path: Path) -> None:
    class Reverse(ByteTokenizer):
        bos_id, eos_ids, pad_id, adds_bos, adds_eos, unk_id = 1, (0,), 7, True, True, 3

        def __init__(self, settings: TokenizerSettings) -> None:
            Tokenizer.__init__(self, settings)

        def encode_prompts(self, texts: Sequence[str], **_: bool) -> list[list[int]]:
            return [[9] for _ in texts]

    clean = CleanedUp(Reverse(TokenizerSettings(str(tmp_path))))
    names = ("bos_id", "eos_ids", "pad_id", "adds_bos", "adds_eos", "unk_id")
    assert [getattr(clean, name) for name in names] == [1, (0,), 7, True, True, 3]
    assert clean.encode_prompts(["a"], add_special_tokens=True, ensure_bos=True)[0] == [9]


def test_clean_up_is_that_of_transformers(bpe_dir: Path) -> None:
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(bpe_dir)
    for text in (
        "a . b ? c ! d , e ' f do n't I 'm it 's we 've you 're",
        "  .",
        "x  ' s",
        "m' n ' t 'em",
        " ' n ' t",
        "a ' . n 't",
    ):
        assert clean_up(text) == oracle.clean_up_tokenization(text)


@pytest.mark.parametrize("kind", ["auto", "transformers"])
def test_a_panic_of_the_library_is_an_error_of_one_line(
    bpe_dir: Path, tmp_path: Path, kind: str
) -> None:
    """A pattern that backtracks too far on a text. A panic is no Exception."""
    library = tokenizers.Tokenizer.from_file(str(bpe_dir / "tokenizer.json"))
    pattern = tokenizers.Regex("(a+)+$|(?=(a+)+b)c")
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(False)]
    )
    library.save(str(tmp_path / "tokenizer.json"))
    shutil.copy(bpe_dir / "tokenizer_config.json", tmp_path)
    tokenizer = load(tmp_path, kind)
    bad = "a" * 40 + "c"
    for fails in (
        lambda: tokenizer.encode(bad),
        lambda: tokenizer.encode_batch(["x", bad]),
        lambda: tokenizer.offsets(bad),
        lambda: tokenizer.encode_prompts([bad], add_special_tokens=True, ensure_bos=True),
    ):
        with pytest.raises(TokenizerError) as failed:
            fails()
        assert str(failed.value) == (
            "the tokenizer fails on this text: PanicException: Onig: Regex search error: "
            "retry-limit-in-match over; send other text"
        )
    assert tokenizer.decode(tokenizer.encode("still here")) == "still here"
    settings = PreprocessingSettings(str(tmp_path), kind, stream_key="tensor")
    preprocessor = Preprocessor(settings, ContextStore(tmp_path / "streams"))
    texts = [b"good", bad.encode(), b"fine"]
    made = preprocessor.process_batch([TextRequest(text_input=[text]) for text in texts])
    assert [type(each) for each in made] == [EngineRequest, TokenizerError, EngineRequest]
    for each, text in zip(made[::2], ("good", "fine"), strict=True):
        assert each.arrays["INPUT_ID"].tolist() == [tokenizer.encode(text)]


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [("tiktoken", "tiktoken", "tiktoken"), ("mistral", "mistral_common", "mistral")],
)
def test_a_missing_extra_is_named(ranks_dir: Path, kind: str, module: str, extra: str) -> None:
    (ranks_dir / "tekken.json").write_text("{}")
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from trt_tokenizers.tokenizers.base import TokenizerSettings\n"
        "from trt_tokenizers.tokenizers.registry import create\n"
        f"create(TokenizerSettings({str(ranks_dir)!r}, {kind!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert f"pip install 'trt-tokenizers[{extra}]'" in done.stderr


def test_fast_types_import_no_extra_and_no_transformers(
    bpe_dir: Path, sentencepiece_dir: Path
) -> None:
    code = (
        "import sys\n"
        "from trt_tokenizers.tokenizers.base import TokenizerSettings\n"
        "from trt_tokenizers.tokenizers.registry import create\n"
        f"create(TokenizerSettings({str(bpe_dir)!r}))\n"
        f"create(TokenizerSettings({str(sentencepiece_dir)!r}))\n"
        f"create(TokenizerSettings({str(sentencepiece_dir)!r}, 't5'))\n"
        f"create(TokenizerSettings({str(sentencepiece_dir)!r}, 'byte'))\n"
        "heavy = {'torch', 'transformers', 'tiktoken', 'mistral_common'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
