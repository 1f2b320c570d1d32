"""An engine step's token ids -> text, for many streams at once. Independent of Triton."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trt_tokenizers.processing.engine_steps import EngineStep
from trt_tokenizers.processing.metrics import Metrics
from trt_tokenizers.processing.text_sequence import BeamSequences, TextSequence, TextStep
from trt_tokenizers.settings import setting
from trt_tokenizers.streams.context_store import ContextStore, RequestContext
from trt_tokenizers.streams.stream_key import ASK_S, STREAM_KEY_VALUES, FinishReason
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.registry import create as create_tokenizer

logger = logging.getLogger(__name__)

_MAX_RECENT = 1024  # contexts kept for further sequences of their request
_MAX_ENDED = 4096  # streams that ended here while their engines continue
_ENDED_S = 60.0  # such a stream is forgotten after this long without a response

StreamId = tuple[int, int, int]  # stream key, row of the request, sequence of the row
Stream = TextSequence | BeamSequences


@dataclass(slots=True)
class _EndedStream:
    """A stream that ended here while its engine continues."""

    steps: list[TextStep]  # the answer to each further response
    cancel: bool  # whether the engine must be asked to stop
    last_step_at: float
    cancel_sent_at: float


@dataclass(frozen=True)
class PostprocessingSettings(TokenizerSettings):
    """``parameters`` of the model postprocessing."""

    skip_special_tokens: bool = setting(True, "omit special tokens from responses without a key")
    stream_key: str = setting("auto", f"how keys arrive: {', '.join(STREAM_KEY_VALUES)}")
    stop_model: str = setting(
        "",
        "the engine's model, which gets a stop request with the client's request id when a stop "
        "string is found: tensorrt_llm for the C++ backend; empty: the engine runs to its end",
    )
    prompt_in_output: bool = setting(
        False, "the engine prepends the prompt's ids to answers that do not stream; remove them"
    )
    max_streams: int = setting(16384, "maximum streams at once; beyond it the oldest is dropped")
    max_stream_age_s: float = setting(
        3600.0, "drop a stream after so long without a response, seconds"
    )


class Postprocessor:
    """Decodes the streams of one model instance."""

    def __init__(
        self,
        settings: PostprocessingSettings,
        contexts: ContextStore,
        metrics: Metrics | None = None,
        *,
        reusable_keys: bool = False,
    ) -> None:
        """Load the tokenizer.

        Args:
            settings: from config.pbtxt.
            contexts: the store that preprocessing fills.
            metrics: where to count.
            reusable_keys: a key may return for another request, as clients reuse request ids.

        Raises:
            TokenizerError: the tokenizer cannot be loaded.
        """
        self._settings = settings
        self._contexts = contexts
        self.tokenizer: Tokenizer = create_tokenizer(settings)
        self._streams: OrderedDict[StreamId, Stream] = OrderedDict()
        # Streams that ended here: their further responses must not begin new streams.
        self._ended: OrderedDict[StreamId, _EndedStream] = OrderedDict()
        self._recent: OrderedDict[tuple[int, int], RequestContext] = OrderedDict()
        self._warned = False
        self._metrics = metrics
        self._reusable_keys = reusable_keys
        if metrics is not None:
            metrics.gauge("num_requests_running", lambda: self.alive)

    @property
    def alive(self) -> int:
        """Number of streams that have not ended."""
        return len(self._streams)

    def process(
        self, step: EngineStep, client_is_gone: Callable[[], bool] = lambda: False
    ) -> list[TextStep]:
        """Decode one step: one `TextStep` per beam.

        Args:
            step: from the engine. Without a key it is decoded independently of other steps.
            client_is_gone: asked every `ASK_S`. If it returns True, the stream ends.
        """
        if step.key is None:
            return [self._without_key(ids) for ids in step.beams]
        stream_id = (step.key, step.row, step.sequence or 0)
        now = time.monotonic()
        if self._reusable_keys and self._contexts.has(step.key, step.row):
            self._forget(stream_id)  # of the previous request with this key: a new one waits
        if stream_id in self._ended:
            return self._after_end(stream_id, step, now)
        stream = self._streams.get(stream_id) or self._open(stream_id, step, now)
        if self._settings.prompt_in_output and not stream.context.stream:
            step.beams = [ids[stream.context.num_input_tokens :] for ids in step.beams]
        if isinstance(stream, BeamSequences):
            results = stream.step(step.beams, step.finish_reason, last=step.last)
        else:
            log_probs = step.log_probs or ()
            results = [stream.step(step.beams[0], step.finish_reason, log_probs, last=step.last)]
        if not stream.finish_reason and now - stream.checked_at > ASK_S:
            stream.checked_at = now
            self._contexts.touch(step.key, step.row)
            if client_is_gone():
                stream.finish_reason = FinishReason.CANCELLED
                results[0].stop_engine = True
        stream.last_step_at = now
        if stream.finish_reason:
            self._close(stream_id)
            if not (step.finish_reason or step.last):
                self._ended[stream_id] = _EndedStream(
                    [result.after_end(stream.finish_reason) for result in results],
                    cancel=any(result.stop_engine for result in results),
                    last_step_at=now,
                    cancel_sent_at=now,
                )
        else:
            self._streams.move_to_end(stream_id)
        if self._metrics is not None:
            self._measure(self._metrics, stream, results, now)
        return results

    def forget(self, keys: Sequence[int]) -> None:
        """Forget the streams of a request whose engine has failed.

        Args:
            keys: one per row.
        """
        for key in keys:
            known = [each for each in (*self._streams, *self._ended) if each[0] == key]
            for stream_id in known or [(key, 0, 0)]:
                self._forget(stream_id)

    def _forget(self, stream_id: StreamId) -> None:
        """Forget a stream and the context of its row."""
        key, row, _ = stream_id
        self._ended.pop(stream_id, None)
        self._streams.pop(stream_id, None)
        self._recent.pop((key, row), None)
        self._contexts.release(key, row)

    def _after_end(self, stream_id: StreamId, step: EngineStep, now: float) -> list[TextStep]:
        """Answer a response that came after the end of its stream.

        The engine is asked to stop again every `ASK_S`, because the message may have been lost.
        """
        ended = self._ended[stream_id]
        ended.last_step_at = now
        self._ended.move_to_end(stream_id)
        last = step.last or bool(step.finish_reason)
        again = ended.cancel and not last and now - ended.cancel_sent_at > ASK_S
        ended.steps[0].stop_engine = again
        if again:
            ended.cancel_sent_at = now
        if last:
            del self._ended[stream_id]
        return ended.steps

    @staticmethod
    def _measure(metrics: Metrics, stream: Stream, results: list[TextStep], now: float) -> None:
        context = stream.context
        metrics.count("generation_tokens_total", sum(len(r.token_ids) for r in results))
        if not stream.first_step_at and (stream.finish_reason or any(r.token_ids for r in results)):
            stream.first_step_at = now
            metrics.count("prompt_tokens_total", context.num_input_tokens)
            if context.arrived and context.stream:
                metrics.observe("time_to_first_token_seconds", now - context.arrived)
        if stream.finish_reason:
            metrics.count("request_success_total", finished_reason=stream.finish_reason.text)
            if context.arrived:
                metrics.observe("e2e_request_latency_seconds", now - context.arrived)
            if (tokens := results[0].num_output_tokens) > 1 and context.stream:
                each = (now - stream.first_step_at) / (tokens - 1)
                metrics.observe("time_per_output_token_seconds", each)

    def _open(self, stream_id: StreamId, step: EngineStep, now: float) -> Stream:
        """Begin a new stream; drop old ones to make room."""
        self._contexts.sweep(now)
        while self._ended:
            oldest_end = next(iter(self._ended.values()))
            if len(self._ended) <= _MAX_ENDED and now - oldest_end.last_step_at < _ENDED_S:
                break
            self._ended.popitem(last=False)
        too_old = now - self._settings.max_stream_age_s
        while self._streams:
            oldest = next(iter(self._streams.values()))
            full = len(self._streams) >= self._settings.max_streams
            if not full and oldest.last_step_at > too_old:
                break
            self._close(next(iter(self._streams)))
            if oldest.last_step_at > too_old and self._metrics is not None:
                self._metrics.count("streams_shed_total")
        context = self._context(stream_id, keep=step.sequence is not None)
        stream = self._streams[stream_id] = (
            TextSequence(self.tokenizer, context)
            if len(step.beams) == 1
            else BeamSequences(self.tokenizer, context, len(step.beams))
        )
        stream.checked_at = now
        return stream

    def _close(self, stream_id: StreamId) -> None:
        """Forget a stream; the last one of its row releases the row's context."""
        del self._streams[stream_id]
        key, row, _ = stream_id
        several = (key, row) in self._recent
        if not several or all(other[:2] != (key, row) for other in self._streams):
            self._contexts.release(key, row)

    def _context(self, stream_id: StreamId, *, keep: bool) -> RequestContext:
        """The context of a row; *keep* it for further sequences of the row."""
        key, row, _ = stream_id
        context = self._contexts.take(key, row) or self._recent.get((key, row))
        if context is None:
            logger.warning("stream %d has no context: no stop strings, no token counts", key)
            return RequestContext(
                num_input_tokens=0,
                end_ids=self.tokenizer.eos_ids,
                skip_special_tokens=self._settings.skip_special_tokens,
            )
        if keep:
            self._recent[key, row] = context
            while len(self._recent) > _MAX_RECENT:
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
