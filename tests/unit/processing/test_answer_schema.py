"""Schemas that answers must follow: what is refused, and what is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trt_tokenizers.errors import EngineError, RequestError, SettingsError
from trt_tokenizers.processing.answer_schema import AnswerSchema

SCHEMA = {
    "$defs": {"n": {"type": "integer", "maximum": 9}},
    "type": "object",
    "properties": {"도시": {"enum": ["서울"]}, "n": {"$ref": "#/$defs/n"}},
    "required": ["n"],
}
DEEP = "[" * 10**5


def schema(value: Any = SCHEMA) -> AnswerSchema:
    return AnswerSchema(json.dumps(value))


def test_the_guide_is_the_text_of_the_file(tmp_path: Path) -> None:
    text = json.dumps(SCHEMA, ensure_ascii=False, indent=2)
    (tmp_path / "schema.json").write_text(text, encoding="utf-8")
    assert AnswerSchema.read(tmp_path / "schema.json").inputs == {
        "guided_decoding_guide_type": "json_schema",
        "guided_decoding_guide": text,
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff", "it is not UTF-8"),
        (b"", "it is not JSON: Expecting value: line 1 column 1"),
        (b'{"type": ', "it is not JSON: Expecting value: line 1 column 10"),
        (DEEP.encode(), "it is not JSON: "),
        (b"3", "it is no JSON schema: a schema is an object"),
        (b'{"properties": {"a": {"type": "strin"}}}', r"'strin' .* at \$\.properties\.a\.type;"),
        (b'{"pattern": "a("}', r"'a\(' is not a 'regex' at \$\.pattern;"),
    ],
)
def test_a_file_that_is_no_schema(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_bytes(data)
    with pytest.raises(SettingsError, match=message) as error:
        AnswerSchema.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).endswith("correct it")


def test_an_answer_that_follows() -> None:
    for answer in ({"n": 9}, {"n": 0, "도시": "서울"}):
        schema().check(json.dumps(answer), "stop", 10)
    schema({"format": "date"}).check('"2026-11-29"', "stop", 10)
    draft_7 = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}]}
    schema(draft_7).check("[null, 1]", "stop", 10)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", r"it is not JSON \(Expecting value: line 1 column 1"),
        ('{"n": 1', "it is not JSON"),
        (DEEP, "it is not JSON"),
        ("{}", r"'n' is a required property at \$;"),
        ('{"n": 10}', r"10 is greater than the maximum of 9 at \$\.n;"),
    ],
)
def test_an_answer_that_does_not_follow(answer: str, message: str) -> None:
    with pytest.raises(EngineError, match=f"^the answer does not follow the schema: {message}"):
        schema().check(answer, "stop", 10)


def test_formats_and_references_to_other_hosts() -> None:
    with pytest.raises(EngineError, match=r"'Monday' is not a 'date' at \$;"):
        schema({"format": "date"}).check('"Monday"', "stop", 10)
    with pytest.raises(EngineError, match=r"Unresolvable: https://example\.org/a"):
        schema({"$ref": "https://example.org/a"}).check("1", "stop", 10)


def test_an_answer_that_was_cut() -> None:
    """Also one that follows: 1 may be the beginning of 12."""
    message = r"^the answer was cut by max_tokens = 10; raise max_tokens, or "
    for answer in ('{"n": ', "1"):
        with pytest.raises(RequestError, match=message):
            schema({}).check(answer, "length", 10)


def test_without_jsonschema() -> None:
    program = """
import sys
sys.modules["jsonschema"] = None
from trt_tokenizers.cli.main import main
main()
"""
    run = [sys.executable, "-c", program, "chat", "--schema", __file__]
    done = subprocess.run(run, input="", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {__file__}: the module jsonschema, which checks answers, is missing; "
        "pip install 'trt-tokenizers[schema]'\n"
    )
