"""An answer with its type, for a program that runs the ensemble in its own process."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trt_tokenizers.processing.text_sequence import TextStep


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """An answer, or in a stream the next part of one.

    Attributes:
        text: of the answer, or new text.
        finish_reason: stop, length or cancelled; empty while a stream continues.
        num_input_tokens: tokens of the prompt.
        num_output_tokens: tokens so far, without the end id.
        token_ids: the ids of this answer or part.
        log_probs: one per id of ``token_ids``, with return_log_probs; otherwise empty.
        cum_log_prob: their sum so far.
        sequence: which of the answers of num_return_sequences, from 0.
        others: with num_return_sequences the second answer and those after it; empty in a stream.
        added_tokens: with return_added_tokens: start and end in ``text`` of each added token, and
            whether it is special (1 or 0); flat.
        prompt_end: with return_added_tokens: the end of the prompt's text, in the first part.
        tokens: with return_added_tokens and return_log_probs: the bytes of each token.
        perf: with return_perf_metrics: the engine's figures, at the end.
        return_token_ids: whether `outputs` has ``token_ids``.
    """

    text: str
    finish_reason: str = ""
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    cum_log_prob: float = 0.0
    sequence: int = 0
    others: tuple[Answer, ...] = ()
    added_tokens: tuple[int, ...] = ()
    prompt_end: str | None = None
    tokens: tuple[bytes, ...] = ()
    perf: Mapping[str, float] = dataclasses.field(default_factory=dict)
    return_token_ids: bool = False

    @classmethod
    def of_step(cls, step: TextStep, sequence: int, perf: Mapping[str, float]) -> Answer:
        """The part of an answer that one response of the engine gives."""
        return cls(
            text=step.text,
            finish_reason=step.finish_reason.text,
            num_input_tokens=step.num_input_tokens,
            num_output_tokens=step.num_output_tokens,
            token_ids=tuple(step.token_ids),
            log_probs=tuple(step.log_probs),
            cum_log_prob=step.cum_log_prob,
            sequence=sequence,
            added_tokens=tuple(step.added),
            prompt_end=step.prompt_end,
            tokens=tuple(step.tokens),
            perf=perf,
            return_token_ids=step.return_token_ids,
        )

    def outputs(self) -> dict[str, Any]:
        """The answer as JSON values, named as the ensemble's outputs."""
        found: dict[str, Any] = {"text_output": self.text}
        if self.finish_reason:
            found["finish_reason"] = self.finish_reason
            found["num_input_tokens"] = self.num_input_tokens
            found["num_output_tokens"] = self.num_output_tokens
        if self.return_token_ids:
            found["token_ids"] = list(self.token_ids)
        if self.log_probs:
            found["output_log_probs"] = list(self.log_probs)
            found["cum_log_probs"] = self.cum_log_prob
        if self.added_tokens:
            found["added_tokens"] = list(self.added_tokens)
        if self.prompt_end is not None:
            found["prompt_end"] = self.prompt_end
        if self.tokens:
            found["output_tokens"] = [token.decode(errors="replace") for token in self.tokens]
        if self.sequence:
            found["sequence_index"] = self.sequence
        if self.others:
            found["others"] = [other.outputs() for other in self.others]
        return found | dict(self.perf)


def whole_answer(parts: Iterable[Answer]) -> Answer:
    """The answer that consists of *parts*, and the others of its request."""
    by_sequence: dict[int, list[Answer]] = {}
    for part in parts:
        by_sequence.setdefault(part.sequence, []).append(part)
    first, *others = (_joined(by_sequence[number]) for number in sorted(by_sequence))
    return dataclasses.replace(first, others=tuple(others))


def _joined(parts: Sequence[Answer]) -> Answer:
    places: list[int] = []
    length = 0
    for part in parts:
        shifts = itertools.cycle((length, length, 0))  # start, end, special
        places += [place + shift for place, shift in zip(part.added_tokens, shifts, strict=False)]
        length += len(part.text)
    return dataclasses.replace(
        parts[-1],
        text="".join(part.text for part in parts),
        token_ids=tuple(each for part in parts for each in part.token_ids),
        log_probs=tuple(each for part in parts for each in part.log_probs),
        added_tokens=tuple(places),
        prompt_end=parts[0].prompt_end,
        tokens=tuple(each for part in parts for each in part.tokens),
    )
