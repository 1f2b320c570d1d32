"""instructor, which makes objects of answers. Its modes of forced calls and schemas need
structured output."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field
from report import Report, run

SAID = "Ann is 3 years old."


class User(BaseModel):
    name: str
    age: int


class Review(BaseModel):
    stars: int = Field(ge=1, le=5)
    mood: Literal["good", "bad"]
    words: list[Literal["fine", "cold", "loud"]] = Field(max_length=2)


class Card(BaseModel):
    digits: str = Field(pattern="^[0-9]{4}$")


class Visit(BaseModel):
    guest: str = Field(max_length=8)
    review: Review | None
    paid: Card | Literal["cash"]


SAMPLED = (Review, Card, Review, Card, Visit) * 10
#: SmolLM2 does not reason; its template here, which is Qwen's, would let it.
BODY = {"chat_template_kwargs": {"enable_thinking": False}}


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


def sample(report: Report, mode: instructor.Mode) -> str:
    """50 answers at temperature 1, at once: all are objects of their classes."""
    client = instructor.from_openai(OpenAI(base_url=report.openai, api_key="none"), mode=mode)

    def one(seed: int) -> bool:
        made = client.chat.completions.create(
            model="ensemble", response_model=SAMPLED[seed], max_tokens=160, max_retries=0,
            temperature=1, seed=seed, messages=[{"role": "user", "content": "An example, please."}],
            extra_body=BODY,
        )  # fmt: skip
        return isinstance(made, SAMPLED[seed])

    with ThreadPoolExecutor(len(SAMPLED)) as pool:
        assert all(pool.map(one, range(len(SAMPLED))))
    return report.expected


def program(report: Report) -> None:
    modes = instructor.Mode
    if not report.scripted:
        for mode in (modes.TOOLS, modes.JSON_SCHEMA):
            report.ask(f"{mode}, 50 at once", lambda mode=mode: sample(report, mode), timeout=280)
        return
    report.ask("Mode.PARALLEL_TOOLS", lambda: extract(report, modes.PARALLEL_TOOLS))
    for mode in (modes.TOOLS, modes.JSON, modes.JSON_SCHEMA):
        report.ask(
            str(mode),
            lambda mode=mode: extract(report, mode),
            refusal="is not supported by this engine",
        )


run(program, "instructor")
