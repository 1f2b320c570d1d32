"""instructor, which makes objects of answers. Its modes of forced calls and schemas need
structured output."""

from collections.abc import Iterable
from typing import Any

import instructor
from openai import OpenAI
from pydantic import BaseModel
from report import Report, run

SAID = "Ann is 3 years old."


class User(BaseModel):
    name: str
    age: int


def extract(report: Report, mode: instructor.Mode) -> str:
    client = instructor.from_openai(OpenAI(base_url=report.openai, api_key="none"), mode=mode)
    kind: Any = User
    if mode is instructor.Mode.PARALLEL_TOOLS:
        kind = Iterable[User]
    found = client.chat.completions.create(
        model="ensemble", response_model=kind, max_tokens=100, max_retries=0,
        messages=[{"role": "user", "content": SAID}],
    )  # fmt: skip
    users = list(found) if mode is instructor.Mode.PARALLEL_TOOLS else [found]
    assert users == [User(name=SAID, age=3)]
    return report.expected


def program(report: Report) -> None:
    if not report.scripted:  # SmolLM2's template has no tools
        return
    report.ask("Mode.PARALLEL_TOOLS", lambda: extract(report, instructor.Mode.PARALLEL_TOOLS))
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA):
        report.ask(
            str(mode),
            lambda mode=mode: extract(report, mode),
            refusal="is not supported by this engine",
        )


run(program, "instructor")
