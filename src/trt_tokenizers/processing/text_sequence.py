"""The text of one answer, step by step, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trt_tokenizers.processing.added_tokens import AddedTokens
from trt_tokenizers.processing.hidden_tokens import HiddenTokens
from trt_tokenizers.processing.stop_strings import StopIds, StopStrings
from trt_tokenizers.streams.context_store import RequestContext
from trt_tokenizers.streams.stream_key import FinishReason
from trt_tokenizers.tokenizers.base import Tokenizer


@dataclass(slots=True)
class TextStep:
    """What the client gets from one response of the engine.

    Attributes:
        text: new text.
        finish_reason: NOT_FINISHED while the answer continues.
        num_output_tokens: tokens so far, without the end id.
        token_ids: ids of this step that belong to the answer.
        log_probs: one per id of ``token_ids``, or empty.
        cum_log_prob: sum over all tokens so far.
        stop_engine: the answer ended here (stop string, client gone), but the engine continues.
        added: places of added tokens in ``text``, see `AddedTokens.take`.
        prompt_end: end of the prompt's text, in the first step if the client asked for it.
        tokens: bytes of each of ``token_ids``, if the client asked for both places and
            log-probabilities.
        return_token_ids: whether the client asked for ``token_ids``.
    """

    text: str
    finish_reason: FinishReason = FinishReason.NOT_FINISHED
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    token_ids: Sequence[int] = ()
    log_probs: Sequence[float] = ()
    cum_log_prob: float = 0.0
    stop_engine: bool = False
    added: Sequence[int] = ()
    prompt_end: str | None = None
    tokens: Sequence[bytes] = ()
    return_token_ids: bool = False

    def after_end(self, finish_reason: FinishReason) -> TextStep:
        """The step for responses after the end: the same counts and no text."""
        return TextStep(
            text="",
            finish_reason=finish_reason,
            num_input_tokens=self.num_input_tokens,
            num_output_tokens=self.num_output_tokens,
            cum_log_prob=self.cum_log_prob,
        )


class TextSequence:
    """State of one sequence.

    Many engines do not mark their last response. Therefore the end is inferred as well: an end id,
    max_tokens reached, a stop word's ids at the end of a response, or the one response of a request
    that does not stream. Text held back (half a character, the beginning of a stop string) goes
    out with the end.

    Attributes:
        finish_reason: why the sequence ended, NOT_FINISHED before.
        first_step_at, last_step_at, checked_at: times that postprocessing keeps for its stream.
    """

    def __init__(self, tokenizer: Tokenizer, context: RequestContext) -> None:
        self.context = context
        self._decoder = tokenizer.stream(
            skip_special_tokens=context.skip_special_tokens, first=not context.continues
        )
        self._prompt_end = context.prompt_end
        self._added: AddedTokens | None = None
        if context.prompt_end is not None:
            self._token_bytes = tokenizer.token_bytes
            self._decoder = self._added = AddedTokens(self._decoder, tokenizer.added_tokens)
        self._echo = context.echo
        self._end_ids = frozenset(context.end_ids)
        self._stops = StopStrings(context.stop_strings, include=context.include_stop)
        self._stop_ids = StopIds(context.stop_ids)
        self._hidden = HiddenTokens.in_stop_words(tokenizer, context)
        self._tokens = 0
        self._cum_log_prob = 0.0
        self.finish_reason = FinishReason.NOT_FINISHED
        self.first_step_at = self.last_step_at = self.checked_at = 0.0

    def step(
        self,
        ids: Sequence[int],
        engine_reason: FinishReason,
        log_probs: Sequence[float] = (),
        *,
        last: bool = False,
    ) -> TextStep:
        """New token ids, each with its log-probability or without -> new text.

        Args:
            engine_reason: why the engine ended the sequence, if it did and said why.
            last: whether this is the engine's last response, whatever the reason.
        """
        text, self._echo = self._echo, ""
        prompt_end, self._prompt_end = self._prompt_end, None
        added: Sequence[int] = ()
        tokens: Sequence[bytes] = ()
        kept: Sequence[int] = ()
        stop_engine = False
        if not self.finish_reason:
            kept, new, finish = self._take(ids, engine_reason, last or not self.context.stream)
            if self._added is not None:
                added = self._added.take(new, len(text))
                tokens = [self._token_bytes(i) for i in kept] if log_probs else ()
            text += new
            self.finish_reason = finish
            stop_engine = self._stops.stopped and not (engine_reason or last)
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
            added=added,
            prompt_end=prompt_end,
            tokens=tokens,
            return_token_ids=self.context.return_token_ids,
        )

    def _take(
        self, ids: Sequence[int], engine_reason: FinishReason, last: bool
    ) -> tuple[Sequence[int], str, FinishReason]:
        """The ids that belong to the answer, their text, and the finish reason."""
        context, finish = self.context, engine_reason
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
            finish = self._inferred_finish_reason(ids, last)
        if finish:
            text += self._hidden.omit(self._stops.feed(self._hidden.add(self._decoder.finish())))
            text += self._hidden.omit(self._stops.finish())
            if self._stops.stopped:
                finish = FinishReason.STOP
        return ids, text, finish

    def _until_stop(self, ids: Sequence[int]) -> tuple[Sequence[int], str, bool]:
        """Decode up to the first stop string: the ids, their text, and whether it was found.

        It decodes one id at a time: which token completes a stop string must not depend on how the
        engine divides tokens into responses. It also looks for stop ids, because a stop word that
        is a special token has no text.
        """
        text = ""
        for count, token_id in enumerate(ids, 1):
            self._tokens += 1
            piece = self._decoder.feed((token_id,))
            if self._tokens < self.context.min_tokens:
                text += piece  # before min_tokens nothing ends the answer
                continue
            text += self._hidden.omit(self._stops.feed(self._hidden.add(piece, token_id)))
            if self._stops.stopped:
                return ids[:count], text, True
            if self._stop_ids.feed((token_id,)):
                return ids[:count], text + self._hidden.omit(self._stops.finish()), True
        return ids, text, False

    def _inferred_finish_reason(self, ids: Sequence[int], last: bool) -> FinishReason:
        context = self.context
        if context.max_tokens and self._tokens >= context.max_tokens:
            return FinishReason.LENGTH
        # With stop strings `_until_stop` has looked for the stop ids.
        if not context.stop_strings and self._stop_ids.feed(ids):
            return FinishReason.STOP
        return FinishReason.STOP if last else FinishReason.NOT_FINISHED


class BeamSequences:
    """The beams of one sequence; every response carries all ids of every beam.

    Beams may swap places while they run, and sent text cannot be taken back. So the text that all
    beams share goes out at once, and the rest of each beam with the end.

    Attributes:
        finish_reason, first_step_at, last_step_at, checked_at: see `TextSequence`.
    """

    def __init__(self, tokenizer: Tokenizer, context: RequestContext, beams: int) -> None:
        self.context = context
        self._beams = [TextSequence(tokenizer, context) for _ in range(beams)]
        self._stop_ids = StopIds(context.stop_ids)
        self._certain = 0
        self.finish_reason = FinishReason.NOT_FINISHED
        self.first_step_at = self.last_step_at = self.checked_at = 0.0

    def step(
        self, beams: Sequence[Sequence[int]], engine_reason: FinishReason, *, last: bool = False
    ) -> list[TextStep]:
        """All ids of every beam -> the new text of every beam."""
        start, last = self._certain, last or not self.context.stream
        if engine_reason or last or all(map(self._ended, beams)):
            self._certain = max(map(len, beams))
            new = [ids[start:] for ids in beams]
        else:
            common = next(
                (at for at, ids in enumerate(zip(*beams, strict=False)) if len(set(ids)) > 1),
                min(map(len, beams)),
            )
            self._certain = max(start, common)
            new = [beams[0][start : self._certain]] * len(beams)
        steps = [
            beam.step(ids, engine_reason, last=last)
            for beam, ids in zip(self._beams, new, strict=True)
        ]
        self.finish_reason = steps[0].finish_reason
        return steps

    def _ended(self, ids: Sequence[int]) -> bool:
        context = self.context
        return (
            bool(context.max_tokens and len(ids) >= context.max_tokens)
            or not set(context.end_ids).isdisjoint(ids)
            or self._stop_ids.end(ids)
        )
