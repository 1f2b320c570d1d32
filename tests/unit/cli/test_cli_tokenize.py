"""The commands tokenize and tokenizers, as users run them."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from texts import HARD_TEXTS
from trt_tokenizers.cli.main import main
from trt_tokenizers.plugins import list_plugins
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.inspection import first_difference, pieces
from trt_tokenizers.tokenizers.registry import create
from trt_tokenizers.tokenizers.sentencepiece import library_offsets


def run(*arguments: object, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_text_as_json(bpe_dir: Path) -> None:
    result = run("tokenize", "--tokenizer-dir", bpe_dir, "--json", "hello <|im_end|>é")
    shown = json.loads(result.stdout)
    ids = create(TokenizerSettings(str(bpe_dir))).encode("hello <|im_end|>é")
    assert [t["id"] for t in shown["tokens"]] == ids
    assert shown["count"] == len(ids)
    special = [t for t in shown["tokens"] if t["special"]]
    assert [(t["piece"], t["start"], t["end"]) for t in special] == [("<|im_end|>", 6, 16)]


def test_messages_show_the_rendered_prompt(bpe_dir: Path) -> None:
    messages = '[{"role": "user", "content": "hi"}]'
    shown = json.loads(
        run("tokenize", "--tokenizer-dir", bpe_dir, "--messages", messages, "--json").stdout
    )
    assert shown["prompt"] == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    arguments = '{"add_generation_prompt": false}'
    shorter = run("tokenize", "--tokenizer-dir", bpe_dir, "--messages", messages, "--json",
                  "--template-kwargs", arguments, "--template", "chatml")  # fmt: skip
    assert json.loads(shorter.stdout)["prompt"] == "<|im_start|>user\nhi<|im_end|>\n"


@pytest.mark.parametrize("kind", ["auto", "llama"])
def test_control_tokens_that_stay_text(
    bpe_dir: Path, sentencepiece_dir: Path, tmp_path: Path, kind: str
) -> None:
    """split_special_tokens in tokenizer_config.json: prompt and positions are those of the text."""
    shutil.copytree(sentencepiece_dir if kind == "llama" else bpe_dir, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split_special_tokens": True}))
    end = "</s>" if kind == "llama" else "<|im_end|>"
    shown = json.loads(
        run("tokenize", "--tokenizer-dir", tmp_path, "--template",
            "[{{ messages[0].content }}]" + end, "--json",
            "--messages", json.dumps([{"role": "user", "content": f"a{end}b"}])).stdout
    )  # fmt: skip
    assert shown["prompt"] == f"[a{end}b]{end}"
    spans = [(t["start"], t["end"]) for t in shown["tokens"] if t["start"] is not None]
    assert {at for start, stop in spans for at in range(start, stop)} == set(
        range(4 + 2 * len(end))
    )
    special = [t["piece"] for t in shown["tokens"] if t["special"]]
    assert special == (["<s>", end] if kind == "llama" else [end])


@pytest.mark.parametrize("kind", ["auto", "gpt2", "llama", "byte"])
def test_pieces_cover_every_text(bpe_dir: Path, sentencepiece_dir: Path, kind: str) -> None:
    folder = sentencepiece_dir if kind == "llama" else bpe_dir
    tokenizer = create(TokenizerSettings(str(folder), kind))
    for text in [*HARD_TEXTS, "</s>\u2581 a", "<|endoftext|><|endoftext|>a"]:
        (ids,) = tokenizer.encode_prompts([text], add_special_tokens=True, ensure_bos=True)
        found = pieces(tokenizer, text, ids)
        spans = [(p.start, p.end) for p in found if p.start is not None and p.end is not None]
        covered = {at for start, end in spans for at in range(start, end)}
        # The type auto adds no BOS, so it keeps both; gpt2 drops one.
        dropped = 13 if text.startswith("<|endoftext|><") and kind == "gpt2" else 0
        assert covered == set(range(dropped, len(text))), text
        assert spans == sorted(spans)


def test_positions_equal_sentencepieces(sentencepiece_dir: Path) -> None:
    import sentencepiece

    path = str(sentencepiece_dir / "tokenizer.model")
    oracle = sentencepiece.SentencePieceProcessor(model_file=path)
    tokenizer = create(TokenizerSettings(str(sentencepiece_dir), "llama"))
    for text in HARD_TEXTS:
        found = pieces(tokenizer, text, tokenizer.encode(text))[1:]  # without BOS
        for piece, (id_, start, end) in zip(found, library_offsets(oracle, text), strict=True):
            assert piece.id == id_
            if start < end:
                assert (piece.start, piece.end) == (start, end), (text, piece)


def test_positions_and_texts_if_a_normalizer_changes_the_text(tmp_path: Path) -> None:
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    vocabulary = [("<unk>", 0.0), ("\u2581", -2.0), ("\u2581fi", -3.0), ("1", -4.0), ("b", -5.0)]
    backend = tokenizers.Tokenizer(models.Unigram(vocabulary, 0))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = create(TokenizerSettings(str(tmp_path)))
    found = pieces(tokenizer, "b \ufb01\u2460", tokenizer.encode("b \ufb01\u2460"))
    assert [(p.text, p.start, p.end, p.special) for p in found] == [
        (" ", 0, 1, False), ("b", 0, 1, False), (" fi", 1, 3, False), ("1", 3, 4, False),
    ]  # fmt: skip


def test_plain_output_from_standard_input(bpe_dir: Path) -> None:
    result = run("tokenize", "--tokenizer-dir", bpe_dir, stdin="a\nb")
    assert result.stdout.splitlines()[-1] == "3 tokens"
    assert "'\\n'" in result.stdout


def on_terminal(*arguments: object, **environ: str) -> str:
    """The command's output on a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from trt_tokenizers.cli.main import main; main()"]
    subprocess.run([*command, *map(str, arguments)], stdout=theirs, check=True,
                   env={**os.environ, "NO_COLOR": "", **environ})  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while more := os.read(ours, 65536):
            shown += more
    except OSError:  # everything was read, and the other end is closed
        pass
    os.close(ours)
    return shown.decode()


def test_adjacent_pieces_differ_in_colour_on_a_terminal(bpe_dir: Path) -> None:
    text = "a\nb\x1b[2J<|im_end|><|im_end|>é"
    shown = on_terminal("tokenize", "--tokenizer-dir", bpe_dir, text)
    backgrounds = re.findall(r"\x1b\[(10\d|4\d)m", shown)
    lines = text.count("\n")
    assert len(backgrounds) == len(create(TokenizerSettings(str(bpe_dir))).encode(text)) + lines
    assert backgrounds.count("45") == backgrounds.count("105") == 1  # the special ones
    assert all(
        a != b for a, b in pairwise(backgrounds[2:])
    )  # a line end splits a piece into two of one colour
    assert "\x1b[2J" not in shown
    plain = on_terminal("tokenize", "--tokenizer-dir", bpe_dir, text, NO_COLOR="1")
    assert "\x1b" not in plain
    assert plain.replace("\r", "") == run("tokenize", "--tokenizer-dir", bpe_dir, text).stdout


def test_bytes_that_are_not_a_character_are_escaped_once(bpe_dir: Path) -> None:
    assert r"'\xf0'" in run("tokenize", "--tokenizer-dir", bpe_dir, "\U00013000").stdout


def test_a_rendered_prompt_is_shown_whole(bpe_dir: Path) -> None:
    messages = '[{"role": "user", "content": "hi\\u001b"}]'
    shown = run("tokenize", "--tokenizer-dir", bpe_dir, "--messages", messages).stdout
    assert shown.startswith("<|im_start|>user\nhi\\x1b<|im_end|>\n<|im_start|>assistant\n\n")


def test_compare_with_transformers(bpe_dir: Path, tmp_path: Path) -> None:
    same = run("tokenize", "--tokenizer-dir", bpe_dir, "--compare", "transformers", "hello world")
    assert (same.exit_code, "the same ids" in same.stderr) == (0, True)
    for file in bpe_dir.glob("*.json"):
        (tmp_path / file.name).write_text(file.read_text())
    differs = run("tokenize", "--tokenizer-dir", tmp_path, "--tokenizer-type", "byte",
                  "--compare", "transformers", "hello")  # fmt: skip
    assert differs.exit_code == 1
    assert "transformers differs at token 0, character 0:" in differs.stderr
    assert (
        "this type     104 'h' 101 'e' 108 'l' 108 'l' 111 'o'  (5 tokens in all)" in differs.stderr
    )


def test_a_folder_that_transformers_cannot_load_is_one_line(ranks_dir: Path) -> None:
    result = run("tokenize", "--tokenizer-dir", ranks_dir, "--tokenizer-type", "byte",
                 "--compare", "transformers", "a")  # fmt: skip
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: transformers cannot load {ranks_dir}: ")
    assert line.endswith("; use a folder that AutoTokenizer loads, or leave --compare out")


def ids(*arguments: object) -> list[int]:
    result = run("tokenize", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return [token["id"] for token in json.loads(result.stdout)["tokens"]]


def test_settings_work_as_in_the_server(bpe_dir: Path, sentencepiece_dir: Path) -> None:
    plain = ("--tokenizer-dir", bpe_dir, "hello world")
    alone = ids(*plain)
    assert ids(*plain, "--set", "add_bos=true", "--set", "add_eos=yes") == [0, *alone, 2]
    assert ids(*plain, "--set", "add_bos=1", "--set", "add_special_tokens=false") == alone
    llama = ("--tokenizer-dir", sentencepiece_dir, "--tokenizer-type", "llama", "</s>a")
    assert len(ids(*llama, "--set", "legacy=true")) == len(ids(*llama)) + 1
    clean = run("tokenize", *plain, "--set", "clean_up_tokenization_spaces=true")
    assert clean.stdout == run("tokenize", *plain).stdout, "ids and pieces do not change"


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_truncated_prompt_keeps_its_positions(bpe_dir: Path, side: str) -> None:
    text = "one two three four five"
    options = ("--tokenizer-dir", bpe_dir, "--json", "--set", "add_bos=true", text)
    every = json.loads(run("tokenize", *options).stdout)["tokens"]
    cut = run("tokenize", *options, "--set", "truncate_prompt_tokens=4",
              "--set", f"truncation_side={side}", "--compare", "transformers")  # fmt: skip
    expected = every[:4] if side == "right" else [every[0], *every[-3:]]
    assert json.loads(cut.stdout)["tokens"] == expected
    assert f"note: truncated to 4 of {len(every)} tokens" in cut.stderr
    assert f"({len(every)} tokens in all)" in cut.stderr, "compared before truncation"


def test_the_choice_of_auto_is_reported(bpe_dir: Path, sentencepiece_dir: Path) -> None:
    result = run("tokenize", "--tokenizer-dir", bpe_dir, "a")
    assert result.stderr == (
        f"note: tokenizer type auto: tokenizers, because {bpe_dir} has tokenizer.json\n"
    )
    older = run("tokenize", "--tokenizer-dir", sentencepiece_dir, "--tokenizer-type", "sp", "a")
    assert older.stderr == "note: tokenizer type sp is the older name of sentencepiece\n"
    assert run("tokenize", "--tokenizer-dir", bpe_dir, "--tokenizer-type", "byte", "a").stderr == ""


def test_the_last_value_of_a_setting_counts(bpe_dir: Path) -> None:
    given = ("--set", "tokenizer_type=gpt2", "--set", "tokenizer_type=byte")
    assert ids("--tokenizer-dir", bpe_dir, "a", *given) == [97]


def test_first_difference() -> None:
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2], [1, 3]) == 1
    assert first_difference([1], [1, 3]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--tokenizer-dir", "/nowhere", "a"], 1, "is not a folder"),
        (["a"], 2, "--tokenizer-dir"),
        (["--tokenizer-dir", ".", "--messages", "[]", "a"], 2, "both given"),
        (["--tokenizer-dir", ".", "--set", "add_bos", "a"], 2, "'add_bos' is not NAME=VALUE"),
        (
            ["--tokenizer-dir", ".", "--set", "ad_bos=1", "a"],
            2,
            "--set: unknown parameter 'ad_bos' (did you mean 'add_bos'?); valid are: ",
        ),
        (["--tokenizer-dir", ".", "--set", "add_bos=x", "a"], 2, "expected true or false"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], code: int, message: str) -> None:
    result = run("tokenize", *arguments)
    assert result.exit_code == code
    assert message in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--messages", '[{"role": "user", "content": "\udcff"}]'],
        ["--messages", "[]", "--tools", "\udcff"],
        ["--messages", "[]", "--template-kwargs", "\udcff"],
        ["\udcff"],
        [],
    ],
)
def test_invalid_utf8_is_an_error(bpe_dir: Path, arguments: list[str]) -> None:
    """The shell passes such bytes as surrogate escapes, standard input passes them unchanged."""
    result = CliRunner().invoke(
        main, ["tokenize", "--tokenizer-dir", str(bpe_dir), *arguments], input=b"a\xff\r\n"
    )
    assert result.exit_code == 1
    assert "is not valid UTF-8: invalid start byte at byte" in result.stderr


def test_types_are_listed_with_their_package() -> None:
    listed = json.loads(run("tokenizers", "--json").stdout)
    own = {p["name"]: p for p in listed if p["package"] == "trt-tokenizers"}
    assert {"auto", "byte", "gpt2", "llama", "mistral", "sentencepiece", "t5", "tiktoken",
            "transformers"} <= set(own)  # fmt: skip
    assert own["byte"]["version"]
    assert "Older names: sp for sentencepiece" in run("tokenizers").stdout


def test_an_unusable_type_is_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('no\\nlicence')\n")
    (tmp_path / "leaving_plugin.py").write_text("raise SystemExit('bye')\n")
    info = tmp_path / "broken_plugin-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[trt_tokenizers.tokenizers]\nbroken = broken_plugin:Tokenizer\nneedy = json:loads\n"
        "leaving = leaving_plugin:Tokenizer\nt5 = json:loads\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    needs = {"needy": ("no_such", "install it")}
    found = {p.name: p for p in list_plugins("trt_tokenizers.tokenizers", needs)}
    broken = found["broken"]
    assert (broken.package, broken.version) == ("broken-plugin", "1.2")
    assert broken.error == "does not import: RuntimeError: no"
    assert found["leaving"].error == "does not import: SystemExit: bye"
    assert found["needy"].error == "needs the module 'no_such'; install it"
    assert found["t5"].error == (
        "is registered twice: json:loads of broken-plugin and trt_tokenizers.tokenizers.t5:load "
        "of trt-tokenizers; uninstall one of them"
    )
    assert found["byte"].error == ""
