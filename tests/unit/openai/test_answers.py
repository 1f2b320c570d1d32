"""Steps of the ensemble -> chunks; a whole answer is its stream folded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from answers import openai_type
from trt_tokenizers.openai.answers import Chat, Completions, pieces
from trt_tokenizers.openai.parsing import (
    Content,
    Event,
    Piece,
    Reasoning,
    ToolArguments,
    ToolCall,
    ToolCallEnd,
)
from trt_tokenizers.openai.requests import AnswerRequest
from trt_tokenizers.openai.tensors import Step


class LetterParser:
    """r is reasoning, ( begins a call, ) ends it, other letters inside it are arguments."""

    def __init__(self, prompt_end: str) -> None:
        self.prompt_end = prompt_end
        self._calls, self._open = 0, False
        self.cut: bool | None = None

    def feed(self, given: Sequence[Piece]) -> list[Event]:
        events: list[Event] = []
        for letter in "".join(piece.text for piece in given if not piece.hidden):
            if letter == "(":
                events.append(ToolCall(self._calls, "f"))
                self._open = True
            elif letter == ")" and self._open:
                events.append(ToolCallEnd(self._calls))
                self._calls, self._open = self._calls + 1, False
            elif self._open:
                events.append(ToolArguments(self._calls, letter))
            else:
                events.append(Reasoning(letter) if letter == "r" else Content(letter))
        return events

    def finish(self, *, cut: bool) -> list[Event]:
        self.cut = cut
        return [Content("!")]


def request(n: int = 1, **more: Any) -> AnswerRequest:
    return AnswerRequest("m", [{}], n, **more)


def run(answers: Any, steps: Sequence[Step]) -> tuple[list[Any], Any]:
    chunks = [chunk for step in steps for chunk in answers.feed(0, step)]
    return chunks, answers.fold(chunks)


def chat_of(text: str, finish: str = "stop", **more: Any) -> Any:
    chat = Chat(request(**more), LetterParser, "reasoning_content")
    _, whole = run(chat, [Step(text=text), Step(finish_reason=finish)])
    return whole["choices"][0]


def test_pieces_divide_the_text_at_added_tokens() -> None:
    step = Step(text="a<b>c</b>", added=(1, 4, 0, 5, 9, 1))
    assert pieces(step) == [
        Piece("a"),
        Piece("<b>", special=True),
        Piece("c"),
        Piece("</b>", special=True, hidden=True),
    ]
    assert not any(piece.hidden for piece in pieces(step, show=True))
    assert pieces(Step()) == []


def test_a_whole_call() -> None:
    choice = chat_of("rr(12)")
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert message["reasoning_content"] == "rr"
    (call,) = message["tool_calls"]
    assert (call["type"], call["function"]) == ("function", {"name": "f", "arguments": "12"})
    assert call["id"].startswith("call_")


def test_length_wins_over_calls_and_a_cut_call_is_no_call() -> None:
    assert chat_of("(12)", "length")["finish_reason"] == "length"
    assert chat_of("(12", "length")["finish_reason"] == "length"
    assert chat_of("(12")["finish_reason"] == "stop"


def test_ids_of_calls_are_unique() -> None:
    calls = chat_of("(1)(2)(3)")["message"]["tool_calls"]
    assert len({call["id"] for call in calls}) == 3


def test_without_parallel_calls_only_the_first_is_given_out() -> None:
    choice = chat_of("(1)(2)", parallel_tool_calls=False)
    assert [call["function"]["arguments"] for call in choice["message"]["tool_calls"]] == ["1"]
    assert choice["finish_reason"] == "tool_calls"


def test_the_parser_gets_the_end_of_the_prompt_from_a_sign_of_life() -> None:
    made: list[LetterParser] = []

    def make(prompt_end: str) -> LetterParser:
        made.append(LetterParser(prompt_end))
        return made[-1]

    chat = Chat(request(), make, "reasoning")
    steps = [Step(prompt_end="<think>"), Step(), Step(text="a"), Step(finish_reason="length")]
    chunks, _ = run(chat, steps)
    assert [parser.prompt_end for parser in made] == ["<think>"]
    assert made[0].cut is True
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "a"}


TEXTS = st.text("ab r(1)é👍", max_size=20)


@given(text=TEXTS, cuts=st.lists(st.integers(0, 20), max_size=6), finish=st.sampled_from(
    ["stop", "length"]))  # fmt: skip
def test_the_fold_does_not_depend_on_cuts(text: str, cuts: list[int], finish: str) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    steps = [Step(text=text[a:b]) for a, b in itertools.pairwise(places)]
    last = Step(finish_reason=finish, prompt_tokens=3, completion_tokens=9)
    chunks, whole = run(Chat(request(), LetterParser, "reasoning"), [*steps, last])
    _, at_once = run(Chat(request(), LetterParser, "reasoning"), [last._replace(text=text)])
    openai_type("ChatCompletion").model_validate(whole)
    for answer in (whole, at_once):
        answer["id"] = answer["created"] = None
        for call in answer["choices"][0]["message"].get("tool_calls", ()):
            call["id"] = None
    assert whole == at_once
    for chunk in chunks:
        openai_type("ChatCompletionChunk").model_validate(chunk)
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}


def test_several_answers_are_kept_apart_and_counted_together() -> None:
    completions = Completions(request(2))
    steps = [
        Step(1, "x"), Step(0, "a"), Step(1, "y"),
        Step(1, "", "length", 5, 2), Step(0, "b", "stop", 5, 2),
        Step(0, "late", "stop", 5, 9),
    ]  # fmt: skip
    _, whole = run(completions, steps)
    assert completions.left == 0
    assert [(c["index"], c["text"], c["finish_reason"]) for c in whole["choices"]] == [
        (0, "ab", "stop"), (1, "xy", "length"),
    ]  # fmt: skip
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


def test_echo_goes_before_each_answer_once() -> None:
    completions = Completions(request(2, echo=("P:",)))
    _, whole = run(completions, [Step(0, "a"), Step(0, "b", "stop"), Step(1, "c", "stop")])
    assert [choice["text"] for choice in whole["choices"]] == ["P:ab", "P:c"]


EURO = [
    Step(tokens=[b"\xe2"], log_probs=[-1.0]),
    Step(text="€x", tokens=[b"\x82\xac", b"x"], log_probs=[-2.0, -3.0]),
    Step(finish_reason="stop", log_probs=[0.0]),
]


def test_log_probs_of_tokens_whose_text_comes_later() -> None:
    chat = Chat(request(logprobs=True), LetterParser, "reasoning")
    _, whole = run(chat, EURO)
    content = whole["choices"][0]["logprobs"]["content"]
    assert [(each["bytes"], each["logprob"]) for each in content] == [
        ([0xE2], -1.0), ([0x82, 0xAC], -2.0), ([120], -3.0),
    ]  # fmt: skip
    _, whole = run(Completions(request(logprobs=True)), EURO)
    log_probs = whole["choices"][0]["logprobs"]
    assert log_probs["token_logprobs"] == [-1.0, -2.0, -3.0]
    assert log_probs["tokens"][2] == "x"
