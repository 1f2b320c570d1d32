"""The text of one answer, step by step, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trt_tokenizers.processing.hidden_tokens import HiddenTokens
from trt_tokenizers.processing.stop_strings import StopStrings
from trt_tokenizers.streams.context_store import RequestContext
from trt_tokenizers.streams.stream_key import FinishReason
from trt_tokenizers.tokenizers.base import Tokenizer


@dataclass(slots=True)
class TextStep:
    """What the client gets of one response of the engine.

    Attributes:
        text: what is new.
        finish_reason: NOT_FINISHED while the answer goes on.
        num_output_tokens: so far; the end id is none of them.
        token_ids: of this step, those that count.
        log_probs: one per id of ``token_ids`` if there are any.
        cum_log_prob: of all tokens so far.
        stop_engine: the answer ended here (a stop string, a client that is gone), and the engine
            goes on.
    """

    text: str
    finish_reason: FinishReason = FinishReason.NOT_FINISHED
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    token_ids: Sequence[int] = ()
    log_probs: Sequence[float] = ()
    cum_log_prob: float = 0.0
    stop_engine: bool = False

    def no_more(self, finish: FinishReason) -> TextStep:
        """What is said after the end: the same counts, and nothing new."""
        return TextStep(
            text="",
            finish_reason=finish,
            num_input_tokens=self.num_input_tokens,
            num_output_tokens=self.num_output_tokens,
            cum_log_prob=self.cum_log_prob,
        )


class TextSequence:
    """State of one sequence.

    Many engines do not say which response is their last, so the end is worked out here as well:
    an end id, as many tokens as were asked for, a stop word's ids at the end of a response, or,
    of a request that does not stream, its one response. Whatever it was, what was held back (half
    a character, the beginning of a stop string) goes out with it.
    """

    __slots__ = (
        "_cum_log_prob",
        "_decoder",
        "_echo",
        "_end_ids",
        "_hidden",
        "_stops",
        "_tail",
        "_tokens",
        "asked_at",
        "context",
        "finish_reason",
        "first_at",
        "used_at",
    )

    def __init__(self, tokenizer: Tokenizer, context: RequestContext) -> None:
        self.context = context
        self._decoder = tokenizer.stream(
            skip_special_tokens=context.skip_special_tokens, first=not context.continues
        )
        self._echo = context.echo
        self._end_ids = frozenset(context.end_ids)
        self._stops = StopStrings(context.stop_strings, include=context.include_stop)
        self._hidden = HiddenTokens.in_stop_words(tokenizer, context)
        self._tail: tuple[int, ...] = ()
        self._tokens = 0
        self._cum_log_prob = 0.0
        self.finish_reason = FinishReason.NOT_FINISHED
        self.first_at = self.used_at = self.asked_at = 0.0

    def step(
        self, ids: Sequence[int], engine_says: FinishReason, log_probs: Sequence[float] = ()
    ) -> TextStep:
        """New *ids* -> new text."""
        text, self._echo = self._echo, ""
        kept: Sequence[int] = ()
        stop_engine = False
        if not self.finish_reason:
            kept, new, finish = self._take(ids, engine_says)
            text += new
            self.finish_reason = finish
            stop_engine = self._stops.stopped and not engine_says
            log_probs = log_probs[: len(kept)]
            self._cum_log_prob += sum(log_probs)
        return TextStep(
            text=text,
            finish_reason=self.finish_reason,
            num_input_tokens=self.context.num_input_tokens,
            num_output_tokens=self._tokens,
            token_ids=kept,
            log_probs=log_probs if kept else (),
            cum_log_prob=self._cum_log_prob,
            stop_engine=stop_engine,
        )

    def _take(
        self, ids: Sequence[int], engine_says: FinishReason
    ) -> tuple[Sequence[int], str, FinishReason]:
        """The ids that count, their text, and whether the answer ends with them."""
        context, finish = self.context, engine_says
        if not self._end_ids.isdisjoint(ids):
            ids = ids[: next(n for n, i in enumerate(ids) if i in self._end_ids)]
            finish = FinishReason.STOP
        if context.stop_strings:
            ids, text, stopped = self._until_stop(ids)
            if stopped:
                return ids, text, FinishReason.STOP
        else:
            text = self._decoder.feed(ids)
            self._tokens += len(ids)
        if not finish:
            finish = self._inferred_finish_reason(ids)
        if finish:
            text += self._hidden.omit(self._stops.feed(self._hidden.add(self._decoder.finish())))
            text += self._hidden.omit(self._stops.finish())
            if self._stops.stopped:
                finish = FinishReason.STOP
        return ids, text, finish

    def _until_stop(self, ids: Sequence[int]) -> tuple[Sequence[int], str, bool]:
        """One id at a time: which token completes a stop string must not depend on how the
        engine cut its tokens into responses. A stop word that is a special token has no text,
        so its ids are looked for as well."""
        text = ""
        for count, token_id in enumerate(ids, 1):
            self._tokens += 1
            piece = self._decoder.feed((token_id,))
            if self._tokens < self.context.min_tokens:
                text += piece  # too early for any end
                continue
            text += self._hidden.omit(self._stops.feed(self._hidden.add(piece, token_id)))
            if self._stops.stopped:
                return ids[:count], text, True
            if self._ends_in_stop_ids((token_id,)):
                return ids[:count], text + self._hidden.omit(self._stops.finish()), True
        return ids, text, False

    def _ends_in_stop_ids(self, ids: Sequence[int]) -> bool:
        words = self.context.stop_ids
        if not words:
            return False
        self._tail = (*self._tail, *ids)[-max(map(len, words)) :]
        return any(self._tail[-len(word) :] == word for word in words)

    def _inferred_finish_reason(self, ids: Sequence[int]) -> FinishReason:
        context = self.context
        if context.max_tokens and self._tokens >= context.max_tokens:
            return FinishReason.LENGTH
        # With stop strings they were looked for one by one.
        if not context.stop_strings and self._ends_in_stop_ids(ids):
            return FinishReason.STOP
        return FinishReason.NOT_FINISHED if context.stream else FinishReason.STOP


class BeamSequences:
    """The beams of one sequence, whose responses carry every beam whole.

    Text that went out cannot be taken back, and the beams change places while they run. So only
    what all beams have in common is certain and goes out; each beam's own rest follows with the
    end. Nobody ever reads text that a better beam then contradicts.
    """

    def __init__(self, tokenizer: Tokenizer, context: RequestContext, beams: int) -> None:
        self.context = context
        self._beams = [TextSequence(tokenizer, context) for _ in range(beams)]
        self._certain = 0
        self.first_at = self.used_at = self.asked_at = 0.0

    @property
    def finish_reason(self) -> FinishReason:
        return self._beams[0].finish_reason

    def step(self, beams: Sequence[Sequence[int]], engine_says: FinishReason) -> list[TextStep]:
        """Every beam's ids from its beginning -> every beam's new text."""
        if engine_says or not self.context.stream or all(map(self._ended, beams)):
            start, self._certain = self._certain, max(map(len, beams))
            return [
                beam.step(ids[start:], engine_says)
                for beam, ids in zip(self._beams, beams, strict=True)
            ]
        common = 0
        for ids in zip(*beams, strict=False):
            if len(set(ids)) > 1:
                break
            common += 1
        start, self._certain = self._certain, max(self._certain, common)
        new = beams[0][start : self._certain]
        return [beam.step(new, FinishReason.NOT_FINISHED) for beam in self._beams]

    def _ended(self, ids: Sequence[int]) -> bool:
        context = self.context
        return (
            bool(context.max_tokens and len(ids) >= context.max_tokens)
            or not set(context.end_ids).isdisjoint(ids)
            or any(tuple(ids[-len(word) :]) == word for word in context.stop_ids)
        )
