"""An engine step's ids -> text, for many streams at once. No Triton here."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.processing.metrics import Metrics
from trt_tokenizers.processing.text_sequence import BeamSequences, TextSequence, TextStep
from trt_tokenizers.settings import setting
from trt_tokenizers.streams.context_store import ContextStore, RequestContext
from trt_tokenizers.streams.stream_key import ASK_S, FinishReason
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.registry import create as create_tokenizer

logger = logging.getLogger(__name__)

_RECENT = 1024  # contexts kept for the other sequences of their request
_ENDED = 4096  # ended streams remembered until their engines have fallen silent
_ENDED_S = 60.0  # of silence

Place = tuple[int, int, int]  # stream key, row of the request, sequence of the row


@dataclass(slots=True)
class _Ended:
    """A stream that ended here while its engine goes on, and what is said to the rest of it."""

    results: list[TextStep]
    tell: bool  # the engine has to be told
    heard_at: float
    told_at: float


@dataclass(frozen=True)
class PostprocessingSettings(TokenizerSettings):
    """``parameters`` of the model postprocessing."""

    skip_special_tokens: bool = setting(True, "leave special tokens out where no key comes along")
    stream_key: str = setting("auto", "how keys arrive: tensor, sequence_id, request_id or auto")
    stop_model: str = setting(
        "",
        "the engine's model, if it is to get a stop request with the client's request id where a "
        "stop string was found: tensorrt_llm for the C++ backend; empty: it runs to its end",
    )
    prompt_in_output: bool = setting(
        False, "the engine puts the prompt's ids in front of answers that do not stream; cut them"
    )
    max_streams: int = setting(16384, "streams remembered at once; the oldest is dropped beyond")
    max_stream_age_s: float = setting(3600.0, "a stream silent for so long is dropped, seconds")


@dataclass(slots=True)
class EngineStep:
    """What one response of the engine says of one sequence.

    Attributes:
        key: the stream's, or None where the engine carries none.
        beams: new ids, one list; with several beams all ids of each.
        finish_reason: as the engine says it, if it does.
        log_probs: one per token id, or None where nobody asked.
        row: which text of the request.
        sequence: which of the row's sequences, where the engine says so.
    """

    key: int | None
    beams: Sequence[Sequence[int]]
    finish_reason: FinishReason = FinishReason.NOT_FINISHED
    log_probs: Sequence[float] | None = None
    row: int = 0
    sequence: int | None = None


class Postprocessor:
    """Made once per model instance; `process` per sequence of each engine response.

    Attributes:
        shed: streams dropped so far because there were too many.
    """

    def __init__(
        self,
        settings: PostprocessingSettings,
        contexts: ContextStore,
        metrics: Metrics | None = None,
        *,
        keys_return: bool = False,
    ) -> None:
        """
        Args:
            settings: from config.pbtxt.
            contexts: where preprocessing leaves them.
            metrics: where to count.
            keys_return: a key may be used again, as clients do with their request ids.

        Raises:
            TokenizerError: the server cannot serve with these settings.
        """
        self._settings = settings
        self._contexts = contexts
        self.tokenizer: Tokenizer = create_tokenizer(settings)
        self._streams: OrderedDict[Place, TextSequence | BeamSequences] = OrderedDict()
        # Ended here while the engine goes on: what still comes must not begin a new stream.
        self._ended: OrderedDict[Place, _Ended] = OrderedDict()
        self._recent: OrderedDict[tuple[int, int], RequestContext] = OrderedDict()
        self._warned = False
        self._metrics = metrics
        self._keys_return = keys_return
        if metrics is not None:
            metrics.gauge("num_requests_running", lambda: self.alive)
        self.shed = 0

    @property
    def alive(self) -> int:
        """Streams remembered."""
        return len(self._streams)

    def process(
        self, step: EngineStep, client_is_gone: Callable[[], bool] = lambda: False
    ) -> list[TextStep]:
        """The text of one step, one entry per beam. Streams remember; without a key each step
        stands for itself.

        Args:
            step: from the engine.
            client_is_gone: asked now and then; the stream then ends, and so should the engine.
        """
        if step.key is None:
            return [self._without_key(ids) for ids in step.beams]
        place = (step.key, step.row, step.sequence or 0)
        now = time.monotonic()
        if self._keys_return and self._contexts.has(step.key, step.row):
            self._begin_anew(place)
        if place in self._ended:
            return self._rest(place, step, now)
        stream = self._streams.get(place) or self._open(place, step, now)
        if self._settings.prompt_in_output and not stream.context.stream:
            step.beams = [ids[stream.context.num_input_tokens :] for ids in step.beams]
        if isinstance(stream, BeamSequences):
            results = stream.step(step.beams, step.finish_reason)
        else:
            results = [stream.step(step.beams[0], step.finish_reason, step.log_probs or ())]
        finish = stream.finish_reason
        if not finish and now - stream.asked_at > ASK_S:
            stream.asked_at = now
            self._contexts.touch(step.key, step.row)
            if client_is_gone():
                finish = FinishReason.CANCELLED
                results[0].stop_engine = True
        stream.used_at = now
        if finish:
            self._close(place)
            if not step.finish_reason:
                rest = [result.no_more(finish) for result in results]
                tell = any(result.stop_engine for result in results)
                self._ended[place] = _Ended(rest, tell, heard_at=now, told_at=now)
        else:
            self._streams.move_to_end(place)
        if self._metrics is not None:
            self._measure(self._metrics, stream, results, finish, now)
        return results

    def _begin_anew(self, place: Place) -> None:
        """A context waits under a key that was used before: this is another request."""
        self._ended.pop(place, None)
        if place in self._streams:
            self._close(place)
        self._recent.pop(place[:2], None)

    def _rest(self, place: Place, step: EngineStep, now: float) -> list[TextStep]:
        """What still comes of a stream that has ended: nothing new for the client. The engine is
        told again until it has heard: a message may have been lost."""
        ended = self._ended[place]
        ended.heard_at = now
        self._ended.move_to_end(place)
        ended.results[0].stop_engine = ended.tell and now - ended.told_at > ASK_S
        if ended.results[0].stop_engine:
            ended.told_at = now
        if step.finish_reason:
            del self._ended[place]
            ended.results[0].stop_engine = False
        return ended.results

    @staticmethod
    def _measure(
        metrics: Metrics,
        stream: TextSequence | BeamSequences,
        results: Sequence[TextStep],
        finish: FinishReason,
        now: float,
    ) -> None:
        context = stream.context
        metrics.count("generation_tokens_total", sum(len(r.token_ids) for r in results))
        if not stream.first_at:
            stream.first_at = now
            metrics.count("prompt_tokens_total", context.num_input_tokens)
            if context.arrived and context.stream:
                metrics.observe("time_to_first_token_seconds", now - context.arrived)
        if finish:
            metrics.count("request_success_total", finished_reason=finish.text)
            if context.arrived:
                metrics.observe("e2e_request_latency_seconds", now - context.arrived)
            if (tokens := results[0].num_output_tokens) > 1 and context.stream:
                each = (now - stream.first_at) / (tokens - 1)
                metrics.observe("time_per_output_token_seconds", each)

    def _open(self, place: Place, step: EngineStep, now: float) -> TextSequence | BeamSequences:
        """A stream met for the first time; room is made for it, oldest first."""
        self._contexts.sweep(now)
        while self._ended:
            oldest_end = next(iter(self._ended.values()))
            if len(self._ended) <= _ENDED and now - oldest_end.heard_at < _ENDED_S:
                break
            self._ended.popitem(last=False)
        too_old = now - self._settings.max_stream_age_s
        while self._streams:
            oldest = next(iter(self._streams.values()))
            full = len(self._streams) >= self._settings.max_streams
            if not full and oldest.used_at > too_old:
                break
            self._close(next(iter(self._streams)))
            if oldest.used_at > too_old:
                self.shed += 1
                if self._metrics is not None:
                    self._metrics.count("streams_shed_total")
        context = self._context(place, keep=step.sequence is not None)
        stream = self._streams[place] = (
            TextSequence(self.tokenizer, context)
            if len(step.beams) == 1
            else BeamSequences(self.tokenizer, context, len(step.beams))
        )
        stream.asked_at = now
        return stream

    def _close(self, place: Place) -> None:
        """Forget a stream; with the last one of its row the row's context is released."""
        del self._streams[place]
        key, row, _ = place
        several = (key, row) in self._recent
        if not several or all(other[:2] != (key, row) for other in self._streams):
            self._contexts.release(key, row)

    def _context(self, place: Place, *, keep: bool) -> RequestContext:
        """The context of a row; *keep* it for the row's other sequences."""
        key, row, _ = place
        context = self._contexts.take(key, row) or self._recent.get((key, row))
        if context is None:
            logger.warning("stream %d has lost its context: no stop strings, no counts", key)
            return RequestContext(
                num_input_tokens=0,
                end_ids=self.tokenizer.eos_ids,
                skip_special_tokens=self._settings.skip_special_tokens,
            )
        if keep:
            self._recent[key, row] = context
            while len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        return context

    def _without_key(self, ids: Sequence[int]) -> TextStep:
        if not self._warned:
            self._warned = True
            logger.warning(
                "the engine's responses carry no stream key: characters cut between two chunks "
                "are lost and stop strings are not matched; send a request id, or use Triton 25.02 "
                "or newer"
            )
        decoder = self.tokenizer.stream(
            skip_special_tokens=self._settings.skip_special_tokens, first=False
        )
        return TextStep(
            text=decoder.feed(ids) + decoder.finish(),
            num_output_tokens=len(ids),
            token_ids=ids,
        )


def output_arrays(
    steps: Sequence[Sequence[TextStep]], *, log_probs: bool, ids: bool = False
) -> dict[str, npt.NDArray[Any]]:
    """Arrays of one response, from steps [rows][beams].

    OUTPUT and OUT_FINISH_REASON are BYTES [rows, beams], NUM_INPUT_TOKENS int32 [rows, 1],
    NUM_OUTPUT_TOKENS int32 [rows, beams], OUT_LOG_PROBS float32 [rows, 1, n] padded with 0,
    CUM_LOG_PROBS float32 [rows, 1], OUT_IDS int32 [rows, beams, n] padded with -1. Every tensor
    costs on its way, so what says nothing before the end of an answer goes out with the end only,
    and the ids where somebody reads them.
    """
    arrays: dict[str, npt.NDArray[Any]] = {
        "OUTPUT": _strings([[step.text for step in row] for row in steps])
    }
    if any(row[0].finish_reason for row in steps):
        reasons = [[step.finish_reason.text for step in row] for row in steps]
        arrays["OUT_FINISH_REASON"] = _strings(reasons)
        inputs = [[row[0].num_input_tokens] for row in steps]
        arrays["NUM_INPUT_TOKENS"] = np.array(inputs, dtype=np.int32)
        outputs = [[step.num_output_tokens for step in row] for row in steps]
        arrays["NUM_OUTPUT_TOKENS"] = np.array(outputs, dtype=np.int32)
    if log_probs:
        values = [row[0].log_probs for row in steps]
        padded = np.zeros((len(values), 1, max(1, *map(len, values))), dtype=np.float32)
        for at, numbers in enumerate(values):
            padded[at, 0, : len(numbers)] = numbers
        arrays["OUT_LOG_PROBS"] = padded
        arrays["CUM_LOG_PROBS"] = np.array([[row[0].cum_log_prob] for row in steps], np.float32)
    if ids:
        width = max(1, *(len(step.token_ids) for row in steps for step in row))
        kept = np.full((len(steps), len(steps[0]), width), -1, dtype=np.int32)
        for at, row in enumerate(steps):
            for beam, step in enumerate(row):
                kept[at, beam, : len(step.token_ids)] = step.token_ids
        arrays["OUT_IDS"] = kept
    return arrays


def _strings(values: list[list[str]]) -> npt.NDArray[np.object_]:
    return np.array([[v.encode() for v in row] for row in values], dtype=np.object_)
