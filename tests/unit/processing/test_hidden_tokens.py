"""Stop words of a special token and text, while special tokens are left out of the text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing import process
from trt_tokenizers.processing.hidden_tokens import HiddenTokens
from trt_tokenizers.processing.postprocess import EngineStep, PostprocessingSettings, Postprocessor
from trt_tokenizers.processing.preprocess import PreprocessingSettings, Preprocessor
from trt_tokenizers.processing.request import TextRequest
from trt_tokenizers.streams.context_store import ContextStore
from trt_tokenizers.streams.stream_key import FinishReason

START, END = "<|im_start|>", "<|im_end|>"


@pytest.fixture(scope="module")
def models(
    bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Preprocessor, Postprocessor]:
    contexts = ContextStore(tmp_path_factory.mktemp("streams"))
    before = Preprocessor(PreprocessingSettings(str(bpe_dir), stream_key="tensor"), contexts)
    return before, Postprocessor(PostprocessingSettings(str(bpe_dir)), contexts)


def answer(
    models: tuple[Preprocessor, Postprocessor], stop_words: list[str], text: str, size: int, *,
    skip: bool = True,
) -> tuple[str, str]:  # fmt: skip
    """The text and the finish reason of an answer whose engine generates *text*."""
    before, after = models
    made = process(
        before,
        TextRequest(
            text_input=[b"x"],
            stop_words=[[word.encode() for word in stop_words]],
            end_id=[-1],
            stream=[True],
            skip_special_tokens=[skip],
        ),
    )
    key = int(made.arrays["STREAM_KEY"][0, 0])
    ids = before.tokenizer.encode(text, add_special_tokens=False)
    answered = ""
    for at in range(0, len(ids), size):
        last = FinishReason.LENGTH if at + size >= len(ids) else FinishReason.NOT_FINISHED
        (step,) = after.process(EngineStep(key, [ids[at : at + size]], last))
        answered += step.text
        if step.finish_reason:
            return answered, step.finish_reason.text
    raise AssertionError("the answer has no end")


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("words", "text", "before"),
    [
        ([f"{START}user"], f"hi {START}user\nhow", "hi "),
        ([f"{START}user"], f"hi{START}username", "hi"),
        ([f"{START}user"], f"hi{START}{START}user", f"hi{START}"),
        ([f"{START}user"], f"hi{START}us {START}user", f"hi{START}us "),
        ([f"{START}user"], f"user{START}assistant", None),
        ([f"{START}user"], "hi user", None),
        ([f"user{START}"], f"a user{START}b", "a "),
        ([f"user{START}"], f"a user{END}b{START}", None),
        ([f"a{START}b{END}c"], f"x a{START}b{END}cd", "x "),
        ([f"a{START}b{END}c"], f"a{START}b{END}a{START}b{END}c", f"a{START}b{END}"),
        ([f"{START}{END}"], f"a{START}b{START}{END}", f"a{START}b"),
        ([f"{START}user", "how"], f"and how{START}user", "and "),
        ([f"{START}user", "how"], f"and {START}user how", "and "),
        ([f"{START}世"], f"é{START}世 界", "é"),
        ([END], f"a{START}b{END}c", f"a{START}b"),
    ],
)
@pytest.mark.parametrize("skip", [True, False])
def test_the_answer_ends_exactly_before_the_word(
    models: tuple[Preprocessor, Postprocessor], words: list[str], text: str, before: str | None,
    size: int, skip: bool,
) -> None:  # fmt: skip
    expected = text if before is None else before
    if skip:
        expected = expected.replace(START, "").replace(END, "")
    reason = "length" if before is None else "stop"
    assert answer(models, words, text, size, skip=skip) == (expected, reason)


@given(
    pieces=st.lists(st.one_of(st.text("ab", max_size=3), st.integers(1, 2)), max_size=12),
    cuts=st.lists(st.integers(0, 4), min_size=1, max_size=12),
)
def test_the_hidden_text_is_omitted_wherever_the_text_is_cut(
    pieces: list[str | int], cuts: list[int]
) -> None:
    hidden = HiddenTokens({1: "<|one|>", 2: "<2>"})
    held = shown = ""
    for at, piece in enumerate(pieces):
        held += hidden.add("", piece) if isinstance(piece, int) else hidden.add(piece, 7)
        cut = min(len(held), cuts[at % len(cuts)])
        shown += hidden.omit(held[:cut])
        held = held[cut:]
    shown += hidden.omit(held)
    assert shown == "".join(piece for piece in pieces if isinstance(piece, str))
