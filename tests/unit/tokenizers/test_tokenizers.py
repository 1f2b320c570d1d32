"""Ids compared with transformers, sentencepiece and `tokenizers`; settings; the registry."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from texts import HARD_TEXTS
from trt_tokenizers.errors import TokenizerError
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.registry import create

LLAMA_TEXTS = [
    *HARD_TEXTS,
    "<s>[INST] hi [/INST] yes </s><s>[INST] z [/INST]",
    "</s>",
    "a</s> b<s>c",
]


def load(folder: Path, kind: str = "auto", **more: object) -> Tokenizer:
    return create(TokenizerSettings(str(folder), kind, **more))


def test_auto_ids_are_transformers_ids(bpe_dir: Path) -> None:
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(bpe_dir)
    ours = load(bpe_dir)
    for text in [*HARD_TEXTS, "<|im_start|>user\nhi<|im_end|>"]:
        ids = oracle(text)["input_ids"]
        assert ours.encode(text) == ids
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == oracle.decode(
                ids, skip_special_tokens=skip
            )


def test_llama_ids_are_transformers_ids_without_legacy(sentencepiece_dir: Path) -> None:
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(sentencepiece_dir)
    ours = load(sentencepiece_dir, "llama")
    for text in LLAMA_TEXTS:
        if not text.startswith(" "):  # see the next test
            assert ours.encode(text) == oracle(text)["input_ids"], text
        ids = ours.encode(text)
        assert ours.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


def test_llama_ids_are_sentencepieces_if_a_text_begins_with_a_space(
    sentencepiece_dir: Path,
) -> None:
    """SentencePiece adds its dummy space before a space; transformers 5 does not."""
    oracle = sentencepiece.SentencePieceProcessor(
        model_file=str(sentencepiece_dir / "tokenizer.model")
    )
    ours = load(sentencepiece_dir, "llama")
    for text in HARD_TEXTS:
        assert ours.encode(text) == [oracle.bos_id(), *oracle.encode(text)]


@given(text=st.text().filter(lambda t: "<" not in t))
def test_sentencepiece_equals_the_library(sentencepiece_dir: Path, text: str) -> None:
    oracle = sentencepiece.SentencePieceProcessor(
        model_file=str(sentencepiece_dir / "tokenizer.model")
    )
    ours = load(sentencepiece_dir, "sentencepiece", add_bos=False)
    ids = ours.encode(text)
    assert ids == oracle.encode(text)
    assert ours.decode(ids) == oracle.decode(ids)


def test_a_legacy_tokenizer_json_of_llama_equals_the_model_file(
    sentencepiece_dir: Path, tmp_path: Path
) -> None:
    """Llama 2's tokenizer.json adds a space after every special token; type llama does not."""
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    backend = AutoTokenizer.from_pretrained(sentencepiece_dir).backend_tokenizer
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    state = json.loads(backend.to_str())
    state["pre_tokenizer"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    shutil.copy(sentencepiece_dir / "tokenizer_config.json", tmp_path)
    from_json, from_model = load(tmp_path, "llama"), load(sentencepiece_dir, "llama")
    for text in LLAMA_TEXTS:
        if not text.startswith(" "):
            assert from_json.encode(text) == from_model.encode(text), text


def test_gpt2_adds_bos_as_transformers_with_add_bos_token(gpt2_dir: Path) -> None:
    oracle = tokenizers.ByteLevelBPETokenizer.from_file(
        str(gpt2_dir / "vocab.json"), str(gpt2_dir / "merges.txt")
    )
    ours = load(gpt2_dir, "gpt2")
    bos = oracle.token_to_id("<|endoftext|>")
    assert (ours.bos_id, ours.eos_ids, ours.pad_id) == (bos, (bos,), bos)
    for text in HARD_TEXTS:
        assert ours.encode(text) == [bos, *oracle.encode(text).ids]
    assert ours.encode("<|endoftext|>a") == ours.encode("a")


def test_transformers_type_decodes_like_auto(bpe_dir: Path) -> None:
    hf, auto = load(bpe_dir, "transformers"), load(bpe_dir)
    assert (hf.bos_id, hf.eos_ids, hf.adds_bos) == (auto.bos_id, auto.eos_ids, auto.adds_bos)
    for text in HARD_TEXTS:
        assert hf.encode(text) == auto.encode(text)
        assert hf.decode(hf.encode(text)) == text


def test_auto_without_tokenizer_json(sentencepiece_dir: Path) -> None:
    tokenizer = load(sentencepiece_dir)
    assert tokenizer.encode("hello") == load(sentencepiece_dir, "llama").encode("hello")


def test_all_eos_ids_of_generation_config(bpe_dir: Path) -> None:
    tokenizer = load(bpe_dir)
    assert tokenizer.eos_ids == (2, 0), (
        "EOS of the tokenizer's files first, then generation_config.json's"
    )
    assert tokenizer.pad_id == 2, "PAD falls back to EOS"


@pytest.mark.parametrize(
    ("generation", "model", "eos_ids"),
    [([2, None], 7, (2,)), ([None, 5], 7, (2, 5)), ([None], 7, (2, 7)), ([None], [None], (2,)),
     ([], [7, None], (2, 7)), (None, 7, (2, 7))],
)  # fmt: skip
def test_null_among_the_eos_ids_is_no_id(
    bpe_dir: Path, tmp_path: Path, generation: object, model: object, eos_ids: tuple[int, ...]
) -> None:
    shutil.copytree(bpe_dir, tmp_path, dirs_exist_ok=True)
    for file, value in (("generation_config", generation), ("config", model)):
        (tmp_path / f"{file}.json").write_text(json.dumps({"eos_token_id": value}))
    assert load(tmp_path).eos_ids == eos_ids


@pytest.mark.parametrize(
    ("text", "add_special", "ensure"),
    [("a", True, True), ("<s>a", True, True), ("<s><s>a", True, True), ("<s>a", False, True),
     ("a", False, True)],
)  # fmt: skip
def test_exactly_one_bos(
    sentencepiece_dir: Path, text: str, add_special: bool, ensure: bool
) -> None:
    tokenizer = load(sentencepiece_dir, "llama")
    ids = tokenizer.encode_prompts([text], add_special_tokens=add_special, ensure_bos=ensure)[0]
    assert ids[0] == tokenizer.bos_id
    assert tokenizer.bos_id not in ids[1:]


@given(times=st.integers(0, 4), text=st.text(max_size=8), special=st.booleans())
def test_one_bos_if_the_model_wants_one_and_otherwise_as_in_the_text(
    bpe_dir: Path, times: int, text: str, special: bool
) -> None:
    oracle = tokenizers.Tokenizer.from_file(str(bpe_dir / "tokenizer.json"))  # adds no BOS
    prompt = "<|endoftext|>" * times + text
    ids = oracle.encode(prompt, add_special_tokens=special).ids
    options = {"add_special_tokens": special, "ensure_bos": True}
    assert load(bpe_dir).encode_prompts([prompt], **options) == [ids]
    assert load(bpe_dir, add_bos=True).encode_prompts([prompt], **options) == [[0, *ids[times:]]]


def test_add_bos_setting_wins(sentencepiece_dir: Path, bpe_dir: Path, gpt2_dir: Path) -> None:
    assert load(sentencepiece_dir, "llama", add_bos=False).encode("a")[0] != 1
    assert load(bpe_dir, add_bos=True).encode("a")[0] == load(bpe_dir).bos_id
    assert load(gpt2_dir, "gpt2", add_bos=False).encode("a") == load(bpe_dir).encode("a")


def test_an_unknown_type_is_refused_with_a_suggestion(bpe_dir: Path) -> None:
    with pytest.raises(
        TokenizerError, match=r"unknown tokenizer type 'lama' \(did you mean 'llama"
    ):
        load(bpe_dir, "lama")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("llama", "needs tokenizer.model or tokenizer.json"),
        ("gpt2", "needs vocab.json and merges.txt"),
        ("sentencepiece", "has no .model file"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load(tmp_path, kind)


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json does not load"):
        load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json cannot be read"):
        load(tmp_path)
    (tmp_path / "x.model").write_bytes(b"\0")
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(TokenizerError, match=r"x\.model does not load"):
        load(tmp_path, "sentencepiece")


def test_missing_folder() -> None:
    with pytest.raises(TokenizerError, match="is not a folder"):
        TokenizerSettings("/nowhere/at/all")


EXAMPLE = Path(__file__).parents[3] / "examples" / "codepoint_tokenizer"


def test_the_example_package_applies_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    kind = "codepoint_tokenizer:CodepointTokenizer"
    plain = load(tmp_path, kind)
    assert (plain.encode("a"), plain.eos_ids, plain.pad_id) == ([2, 97], (3,), 0)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 10]}')
    other = load(tmp_path, kind, add_bos=False, add_eos=True, extra_eos_ids=(7,), pad_id=9)
    assert (other.encode("a"), other.eos_ids, other.pad_id) == ([97, 3], (3, 10, 7), 9)
    assert other.encode_prompts(["a"], add_special_tokens=True, ensure_bos=True)[0] == [97, 3]
    assert other.decode([2, 97, 3]) == "a"
    stream = other.stream()
    assert stream.feed([97, 98]) + stream.feed([3, 99]) + stream.finish() == "abc"


def test_the_example_in_the_docs_is_the_package() -> None:
    docs = (EXAMPLE.parents[1] / "docs" / "plugins.md").read_text()
    shown = docs.split("```python\n")[1].split("```")[0]
    assert (EXAMPLE / "codepoint_tokenizer.py").read_text().endswith(f'code point."""\n\n{shown}')


def test_missing_module_of_a_plugin_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="needs the module 'no_such_module'"):
        load(tmp_path, "no_such_module:Thing")


TEMPLATES = """it must be Jinja, {name: Jinja}, or a list of {"name": …, "template": …}"""
DECODER = """it must be {id: {"content": …}}"""


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer_config", {"added_tokens_decoder": ["a"]},
         f"added_tokens_decoder is ['a']; {DECODER}"),
        ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "a"}}},
         f"added_tokens_decoder is {{'x': {{'content': 'a'}}}}; {DECODER}"),
        ("tokenizer_config", {"added_tokens_decoder": {"1": {}}},
         f"added_tokens_decoder is {{'1': {{}}}}; {DECODER}"),
        ("tokenizer_config", {"added_tokens_decoder": {"1": 3}},
         f"added_tokens_decoder is {{'1': 3}}; {DECODER}"),
        ("tokenizer_config", {"chat_template": [{"name": "default"}]},
         f"chat_template has an entry that is {{'name': 'default'}}; {TEMPLATES}"),
        ("tokenizer_config", {"chat_template": [3]},
         f"chat_template has an entry that is 3; {TEMPLATES}"),
        ("tokenizer_config", {"chat_template": 4}, f"chat_template is 4; {TEMPLATES}"),
        ("special_tokens_map", {"additional_special_tokens": 3},
         "additional_special_tokens is 3; it must be a list of tokens"),
        ("added_tokens", {"a": "x"}, "'a' is 'x'; it must be an id"),
        ("generation_config", {"eos_token_id": "x"},
         "eos_token_id is 'x'; it must be an id or a list of ids"),
        ("generation_config", {"eos_token_id": [2, None, "x"]},
         "eos_token_id is [2, None, 'x']; it must be an id or a list of ids"),
        ("tokenizer_config", {"chat_template": {"default": 3}},
         f"chat_template has an entry that is {{'name': 'default', 'template': 3}}; {TEMPLATES}"),
        ("config", {"eos_token_id": 1.5}, "eos_token_id is 1.5; it must be an id or a list of ids"),
    ],
)  # fmt: skip
def test_an_invalid_value_in_a_small_file_is_named(
    tmp_path: Path, file: str, content: object, message: str
) -> None:
    path = tmp_path / f"{file}.json"
    path.write_text(json.dumps(content))
    with pytest.raises(TokenizerError) as refused:
        load(tmp_path, "byte")
    assert str(refused.value) == f"{path}: {message}"


@pytest.mark.parametrize("name", ["chat_template", "additional_chat_templates/tool_use"])
def test_a_template_that_is_not_utf8_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.jinja"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"a\xff")
    with pytest.raises(TokenizerError) as refused:
        load(tmp_path, "byte")
    assert str(refused.value).startswith(f"{path} cannot be read: ")
    assert str(refused.value).endswith("; save it as UTF-8")


@pytest.mark.parametrize("kind", ["auto", "tiktoken", "sentencepiece", "llama", "t5", "mistral"])
@pytest.mark.parametrize("name", ["x.model", "tokenizer.model", "spiece.model", "tekken.json"])
def test_a_folder_is_not_a_file_of_a_tokenizer(tmp_path: Path, kind: str, name: str) -> None:
    """SentencePiece ends the process if it opens a folder."""
    (tmp_path / name).mkdir()
    with pytest.raises(TokenizerError, match="set tokenizer_dir to the folder that"):
        load(tmp_path, kind)


@pytest.mark.parametrize(
    "name", [":", "json:", ":loads", "a b:c", ".json:loads", "json:loads[x]", "a:b:c", "json:1"]
)
def test_a_malformed_module_and_class_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TokenizerError) as refused:
        load(tmp_path, name)
    assert str(refused.value) == (
        f"tokenizer type {name!r} is not module:Class; write it as my_package.my_module:MyClass"
    )


def test_an_object_that_makes_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="'os:sep' is a str; name a class or a function"):
        load(tmp_path, "os:sep")
    with pytest.raises(TokenizerError, match="no attribute 'nothing'; correct its module, or name"):
        load(tmp_path, "json:nothing")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise ValueError('no licence')", "does not import: ValueError: no licence"),
        ("raise SystemExit(3)", "does not import: SystemExit: 3"),
        ("def Type(settings): ...", "returns a NoneType without bos_id, adds_bos, eos_ids, pad_id"),
    ],
)
def test_an_error_in_a_plugin_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    module = f"mistaken_{len(message)}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TokenizerError, match=message):
        load(tmp_path, f"{module}:Type")


def test_light_types_import_no_heavy_module(bpe_dir: Path, tmp_path: Path) -> None:
    """They would delay the start of both processes, preprocessing and postprocessing."""
    code = (
        "import sys\n"
        "from trt_tokenizers.processing.preprocess import PreprocessingSettings, Preprocessor\n"
        "from trt_tokenizers.processing.postprocess import PostprocessingSettings, Postprocessor\n"
        "from trt_tokenizers.streams.context_store import ContextStore\n"
        "from pathlib import Path\n"
        f"contexts = ContextStore(Path({str(tmp_path)!r}))\n"
        f"Preprocessor(PreprocessingSettings({str(bpe_dir)!r}), contexts)\n"
        f"Postprocessor(PostprocessingSettings({str(bpe_dir)!r}), contexts)\n"
        "heavy = {'torch', 'transformers', 'tritonclient', 'google.protobuf', 'click'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("value", [None, False])
def test_add_bos_token_overrides_tokenizer_json(
    sentencepiece_dir: Path, tmp_path: Path, value: bool | None
) -> None:
    """The post-processor of tokenizer.json adds BOS."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    backend = AutoTokenizer.from_pretrained(sentencepiece_dir).backend_tokenizer
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.save(str(tmp_path / "tokenizer.json"))
    config = json.loads((sentencepiece_dir / "tokenizer_config.json").read_text())
    config["add_bos_token"] = value
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ids = load(tmp_path, "llama").encode("a")
    assert ids.count(1) == (1 if value is None else 0)
