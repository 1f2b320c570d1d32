"""The command run, as users run it; the engine answers with the prompt."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import replay
from harness import generate_replay
from trt_tokenizers.cli.main import main
from trt_tokenizers.cli.run import run as command
from trt_tokenizers.streams.ensemble_inputs import BY_NAME

PROGRAM = str(Path(sys.executable).with_name("trt-tokenizers"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(replay.__file__).parent)}
USER = '[{"role": "user", "content": "hi"}]'
RENDERED = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def repository(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_replay(tmp_path_factory.mktemp("run") / "repo", bpe_dir)


@pytest.fixture(scope="module")
def model(repository: Path, bpe_dir: Path) -> list[str]:
    """The options that make the same ensemble without a repository."""
    return ["--engine", "replay:ReplayEngine", "--model", f"{repository}-model",
            "--tokenizer-dir", str(bpe_dir)]  # fmt: skip


def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(main, ["run", *map(str, arguments)], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_an_answer_from_a_model_and_from_a_repository(model: list[str], repository: Path) -> None:
    for source in (model, ["--model-repo", str(repository)]):
        result = run(*source, "안녕 one two", "--max-tokens", "99")
        assert (result.exit_code, result.stdout) == (0, "안녕 one two\n")


def test_standard_input_without_its_last_line_end(model: list[str]) -> None:
    assert run(*model, "--max-tokens", 99, stdin="a\nb\r\n").stdout == "a\nb\n"
    refused = run(*model, stdin=b"a\xff")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: text_input is not valid UTF-8")


def test_messages_as_json_and_from_a_file(model: list[str], tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text(USER)
    options = ("--max-tokens", 99, "--no-skip-special-tokens", "--end-id", -1)
    for messages in (USER, tmp_path / "chat.json"):
        assert run(*model, "--messages", messages, *options).stdout == RENDERED + "\n"
    shorter = run(*model, "--messages", USER, *options, "--template", "none", "--set", "template=")
    assert shorter.stdout == RENDERED + "\n"  # as in generate, --set wins


def test_json_has_the_outputs_of_the_ensemble(model: list[str]) -> None:
    result = run(*model, "one two", "--json", "--max-tokens", 99, "--return-log-probs")
    answer = json.loads(result.stdout)
    count = answer["num_output_tokens"]
    assert answer == {
        "text_output": "one two", "finish_reason": "length", "num_input_tokens": count,
        "num_output_tokens": count, "output_log_probs": [-1.0] * count, "cum_log_probs": -count,
    }  # fmt: skip
    several = run(*model, "one two", "--json", "--max-tokens", 9, "--num-return-sequences", 2)
    (other,) = json.loads(several.stdout)["others"]
    assert (other["text_output"], other["sequence_index"]) == ("one two", 1)
    plain = run(*model, "one two", "--max-tokens", 9, "--num-return-sequences", 2)
    assert plain.stdout == "one two\none two\n"


def test_a_stream(model: list[str]) -> None:
    result = run(
        *model,
        "one two three four",
        "--stream",
        "--json",
        "--max-tokens",
        99,
        "--stop-words",
        "wo th",
        "--stop-words",
        "x",
        "--include-stop-str-in-output",
    )
    parts = [json.loads(line) for line in result.stdout.splitlines()]
    assert "".join(part["text_output"] for part in parts) == "one two th"
    assert [part.get("finish_reason", "") for part in parts][-1] == "stop"
    assert run(*model, "one two", "--stream", "--max-tokens", 9).stdout == "one two\n"


def test_on_a_terminal_the_answer_streams(model: list[str]) -> None:
    slow = ["--engine-parameter", "steps_per_second=20", "--set", "max_tokens_per_chunk=1"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "run", *model, *slow, "word " * 40, "--max-tokens", "999"],
        stdin=theirs, stdout=theirs, env=ENVIRONMENT,
    )  # fmt: skip
    os.close(theirs)
    first = os.read(ours, 1)
    assert first == b"w"
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(10) == 1
    os.close(ours)


NOISY = """
import os, subprocess
from replay import ReplayEngine

class Noisy(ReplayEngine):
    def __init__(self, settings):
        print("loading")
        subprocess.run(["echo", "a process"])
        super().__init__(settings)
        os.write(1, b"loaded")
"""


def test_standard_output_has_the_answer_only(
    repository: Path, bpe_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    for options, expected in (((), "one two\n"), (("--stream",), "one two\n")):
        done = subprocess.run(
            [PROGRAM, "run", "--engine", "noisy:Noisy", "--model", f"{repository}-model",
             "--tokenizer-dir", bpe_dir, "one two", "--max-tokens", "9", *options],
            env={**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{tmp_path}"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == expected
        assert sorted(done.stderr.split()) == ["a", "loaded", "loading", "process"]


def test_answers_follow_a_schema(
    model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "schema.json").write_text('{"type": "object", "required": ["city"]}')
    options = ("--schema", tmp_path / "schema.json", "--max-tokens", 99)
    refused = run(*model, '{"city": "서울"}', *options)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "'guided_decoding_guide_type' is not supported by this engine" in refused.stderr
    monkeypatch.setattr(
        replay.ReplayEngine, "supported",
        replay.ReplayEngine.supported | {"guided_decoding_guide_type"},
    )  # fmt: skip
    for text in ('{"city": "서울"}', '{"town": 1}'):
        result = run(*model, text + "<|im_end|>", *options)
        if "city" in text:
            assert (result.exit_code, result.stdout) == (0, text + "\n")
        else:
            assert (result.exit_code, result.stdout) == (1, "")
            assert "'city' is a required property" in result.stderr
    (tmp_path / "in.txt").write_text('{"city": 1}<|im_end|>\nno JSON<|im_end|>\n')
    files = ("--input", tmp_path / "in.txt", "--output", tmp_path / "out.jsonl")
    assert run(*model, *files, *options).exit_code == 1
    found = answers(tmp_path / "out.jsonl")
    assert found[0]["text_output"] == '{"city": 1}'
    assert "it is not JSON" in found[1]["error"]


def test_every_option_of_a_request_is_an_input() -> None:
    own = {"prompt", "model_repo", "messages", "stream", "as_json", "requests", "answers", "schema",
           "debug", "engine", "model_dir", "engine_dir", "tokenizer_dir", "tokenizer_type",
           "template", "values", "engine_parameters", "llm_args", "engine_args"}  # fmt: skip
    sampling = {option.name for option in command.params} - own
    assert sampling <= BY_NAME.keys()
    assert {"max_tokens", "seed", "stop_words", "min_p", "guided_decoding_guide"} <= sampling
    assert not {"beam_width", "lora_weights", "random_seed", "early_stopping"} & sampling
    assert all("](" not in (o.help or "") for o in command.params if hasattr(o, "help"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x"], 2, "the model is missing; give --model or --model-repo"),
        (["--model", "MODEL", "--messages", USER, "x"], 2, "give one of PROMPT, --messages and"),
        (["--model", "MODEL", "--input", __file__], 2, "--input and --output go together"),
        (["--model-repo", "REPO", "--template", "llama2", "x"], 2, "--template is in --model-repo"),
        (["--engine-dir", "DIR", "x"], 2, "tensorrtllm (C++) runs only inside tritonserver"),
        (["--engine", "tensorrtllm", "--model", "MODEL", "x"], 2, "runs only inside tritonserver"),
        (["--model-repo", "REPO", "--stream", "--num-return-sequences", "2", "x"], 2,
         "--num-return-sequences without --json needs whole answers"),
        (["--model", "MODEL", "--set", "dtype", "x"], 2, "'dtype' is not NAME=VALUE"),
        (["--model", "MODEL", "--input", __file__, "--output", "x", "--stream"], 2,
         "--input has whole answers"),
        (["--model-repo", "REPO", "--messages", sys.executable], 1, "messages is not valid UTF-8"),
        (["--model", "nowhere", "x"], 1, "holds no config.json"),
        (["--model-repo", "REPO", "--max-tokens", "0", "x"], 1, "max_tokens is 0"),
        (["--model-repo", "REPO", "--messages", "nowhere.json"], 1, "nowhere.json: No such file"),
    ],
)  # fmt: skip
def test_mistakes(repository: Path, arguments: list[str], code: int, message: str) -> None:
    named = {"MODEL": f"{repository}-model", "REPO": str(repository)}
    result = run(*(named.get(argument, argument) for argument in arguments))
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def answers(path: Path) -> dict[int, Any]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({answer["index"] for answer in found}) == len(found)
    return {answer["index"]: answer for answer in found}


def test_a_file_of_requests(model: list[str], tmp_path: Path) -> None:
    lines = [
        {"text_input": "one two three"}, {"messages": json.loads(USER), "end_id": -1},
        {"text_input": "x", "max_tokens": 0}, None, {"text_input": "x", "tempature": 1.0},
        "no object", {"text_input": "one two", "max_tokens": 2},
    ]  # fmt: skip
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join("" if line is None else json.dumps(line) for line in lines))
    arguments = (*model, "--input", source, "--output", output, "--max-tokens", 99)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "6 of 6 requests are answered, 3 failed" in result.stderr
    found = answers(output)
    assert sorted(found) == [0, 1, 2, 4, 5, 6]
    assert found[0]["text_output"] == "one two three"
    assert found[1]["text_output"] == "user\nhi\nassistant\n"
    assert found[2]["error"] == "max_tokens is 0; it must be at least 1"
    assert "did you mean 'temperature'?" in found[4]["error"]
    assert found[5]["error"] == "the line is no JSON object: it is 'no object'"
    assert found[6]["num_output_tokens"] == 2
    before = output.read_bytes()
    again = run(*arguments)  # nothing is left to do; the result is the same
    assert (again.exit_code, output.read_bytes()) == (1, before)


def test_a_file_of_texts(model: list[str], tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_bytes('{"a": 1}\r\n안녕\n\n  last'.encode())
    result = run(*model, "--input", source, "--output", output, "--max-tokens", 99)
    assert (result.exit_code, result.stdout) == (0, "")
    texts = {index: answer["text_output"] for index, answer in answers(output).items()}
    assert texts == {0: '{"a": 1}', 1: "안녕", 3: "  last"}


def test_a_changed_input_is_refused(model: list[str], tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("one\ntwo\n")
    arguments = (*model, "--input", source, "--output", output, "--max-tokens", 9)
    assert run(*arguments).exit_code == 0
    before = output.read_bytes()
    changes = {
        "line 2": lambda: source.write_text("one\nTWO\n"),
        "line 1": lambda: source.write_text("zero\none\ntwo\n"),
    }
    for line, change in changes.items():
        change()
        refused = run(*arguments)
        assert (refused.exit_code, output.read_bytes()) == (2, before)
        assert f"{output} has an answer to {line} of {source} as it was before" in refused.stderr
    source.write_text("one\n")
    assert "line 2" in run(*arguments).stderr
    source.write_text("one\ntwo\nthree\n")
    assert "the parameters have changed" in run(*arguments, "--seed", 1).stderr
    assert run(*arguments).exit_code == 0  # more lines are welcome
    assert answers(output)[2]["text_output"] == "three"
    output.write_text("my notes\n")
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert f"{output}:1 is no answer of such a job" in refused.stderr
    assert output.read_text() == "my notes\n"


@pytest.mark.parametrize("text", ["my notes", '{"a": 1}', "my\nnotes"])
def test_a_file_without_a_line_end_is_no_answer_that_was_half_written(
    model: list[str], tmp_path: Path, text: str
) -> None:
    output = tmp_path / "notes.txt"
    output.write_text(text)
    for source in (Path(__file__), output):
        refused = run(*model, "--input", source, "--output", output)
        assert (refused.exit_code, output.read_text()) == (2, text)
        assert f"{output}:1 is no answer of such a job" in refused.stderr


def test_a_refused_job_keeps_a_half_written_answer(model: list[str], tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("one\ntwo\n")
    arguments = (*model, "--input", source, "--output", output, "--max-tokens", 9)
    assert run(*arguments).exit_code == 0
    cut = output.read_bytes()[:-5]
    output.write_bytes(cut)
    refused = run(*arguments, "--seed", 1)
    assert (refused.exit_code, output.read_bytes()) == (2, cut)
    assert run(*arguments).exit_code == 0
    assert sorted(answers(output)) == [0, 1]


def test_a_killed_job_goes_on_where_it_stopped(model: list[str], tmp_path: Path) -> None:
    """A second process at the same time is refused; half a line at the end is dropped."""
    source = tmp_path / "in.jsonl"
    source.write_text(
        "".join(
            json.dumps({"text_input": f"{n} words " * (n % 7 + 1), "max_tokens": 5 + n % 30}) + "\n"
            for n in range(200)
        )
    )
    # Each answer takes some steps, because the engine takes them for streams only.
    slow = ["--engine-parameter", "steps_per_second=5", "--num-return-sequences", "2"]

    def start(output: Path, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [PROGRAM, "run", *model, *more, "--input", str(source), "--output", str(output)],
            env=ENVIRONMENT, stderr=subprocess.PIPE,
        )  # fmt: skip

    def lines() -> int:
        return output.read_bytes().count(b"\n") if output.exists() else 0

    unbroken, output = tmp_path / "unbroken.jsonl", tmp_path / "out.jsonl"
    process = start(output, *slow)
    deadline = time.monotonic() + 30
    while lines() < 80:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = run(*model, *slow, "--input", source, "--output", output)
    assert (second.exit_code, "is being written by another process" in second.stderr) == (2, True)
    process.kill()
    process.communicate()
    answered = lines()
    assert 80 <= answered < 200
    with output.open("ab") as file:
        file.write(b'{"index": 199, "request": "0123')
    kept = output.read_bytes().splitlines()[:answered]
    done = start(output, *slow[2:])
    assert b"200 of 200 requests are answered" in done.communicate(timeout=60)[1]
    assert done.returncode == 0
    assert output.read_bytes().splitlines()[:answered] == kept
    whole = start(unbroken, *slow[2:])
    whole.communicate(timeout=60)
    assert answers(output) == answers(unbroken)
    assert sorted(answers(output)) == list(range(200))
