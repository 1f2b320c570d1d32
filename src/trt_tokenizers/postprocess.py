"""An engine step's ids -> text. No Triton here."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trt_tokenizers.detokenize import StopStrings
from trt_tokenizers.settings import parse, setting
from trt_tokenizers.streams import ContextStore, FinishReason, StreamContext
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.registry import create as create_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PostprocessingSettings(TokenizerSettings):
    """``parameters`` of the model postprocessing."""

    skip_special_tokens: bool = setting(True, "leave special tokens out where no key comes along")
    max_streams: int = setting(16384, "streams remembered at once; the oldest is dropped beyond")
    max_stream_age_s: float = setting(3600.0, "a stream silent for so long is dropped, seconds")


@dataclass(slots=True)
class EngineStep:
    """What one response of the engine says of one sequence.

    Attributes:
        key: the stream's, or None where the engine carries none.
        token_ids: new ids only.
        finish_reason: as the engine says it; NOT_FINISHED on every chunk but the last.
    """

    key: int | None
    token_ids: Sequence[int]
    finish_reason: FinishReason = FinishReason.NOT_FINISHED


@dataclass(slots=True)
class TextStep:
    """What the client gets of one `EngineStep`."""

    text: str
    finish_reason: str
    num_input_tokens: int
    num_output_tokens: int


class _Stream:
    """State of one sequence."""

    __slots__ = (
        "_context",
        "_decoder",
        "_echo",
        "_end_ids",
        "_finish",
        "_stops",
        "_tokens",
        "used_at",
    )

    def __init__(self, tokenizer: Tokenizer, context: StreamContext) -> None:
        self._context = context
        self._decoder = tokenizer.stream(skip_special_tokens=context.skip_special_tokens)
        self._echo = context.echo
        self._end_ids = frozenset(context.end_ids)
        self._stops = StopStrings(context.stop_strings, include=context.include_stop)
        self._tokens = 0
        self._finish = FinishReason.NOT_FINISHED
        self.used_at = time.monotonic()

    def step(self, ids: Sequence[int], finish: FinishReason) -> TextStep:
        text, self._echo = self._echo, ""
        if self._finish is FinishReason.NOT_FINISHED:
            if not self._end_ids.isdisjoint(ids):
                ids = ids[: next(n for n, i in enumerate(ids) if i in self._end_ids)]
                finish = FinishReason.STOP
            self._tokens += len(ids)
            text += self._stops.feed(self._decoder.feed(ids))
            if finish is not FinishReason.NOT_FINISHED:
                text += self._stops.feed(self._decoder.finish()) + self._stops.finish()
            self._finish = FinishReason.STOP if self._stops.stopped else finish
        return TextStep(
            text=text,
            finish_reason=self._finish.text,
            num_input_tokens=self._context.num_input_tokens,
            num_output_tokens=self._tokens,
        )


class Postprocessor:
    """Made once per model instance; `process` per sequence of each engine response."""

    def __init__(self, settings: PostprocessingSettings, contexts: ContextStore) -> None:
        """
        Raises:
            TokenizerError: the server cannot serve with these settings.
        """
        self._settings = settings
        self._contexts = contexts
        self.tokenizer: Tokenizer = create_tokenizer(settings)
        self._streams: OrderedDict[int, _Stream] = OrderedDict()
        self._warned = False

    @classmethod
    def from_parameters(
        cls, parameters: Mapping[str, str], where: str, contexts: ContextStore
    ) -> Postprocessor:
        """From the strings of config.pbtxt; *where* is named in errors."""
        return cls(parse(PostprocessingSettings, parameters, where), contexts)

    def process(self, step: EngineStep) -> TextStep:
        """The text of one step. Streams remember; without a key each step stands for itself."""
        if step.key is None:
            return self._without_key(step)
        stream = self._streams.get(step.key) or self._open(step.key)
        result = stream.step(step.token_ids, step.finish_reason)
        if step.finish_reason is not FinishReason.NOT_FINISHED:
            self._streams.pop(step.key, None)
        else:
            stream.used_at = time.monotonic()
            self._streams.move_to_end(step.key)
        return result

    def _open(self, key: int) -> _Stream:
        """A stream met for the first time; room is made for it, oldest first."""
        self._contexts.sweep()
        too_old = time.monotonic() - self._settings.max_stream_age_s
        while self._streams:
            oldest = next(iter(self._streams.values()))
            if len(self._streams) < self._settings.max_streams and oldest.used_at > too_old:
                break
            self._streams.popitem(last=False)
        context = self._contexts.take(key) or StreamContext(
            num_input_tokens=0,
            end_ids=self.tokenizer.eos_ids,
            skip_special_tokens=self._settings.skip_special_tokens,
        )
        stream = self._streams[key] = _Stream(self.tokenizer, context)
        return stream

    def _without_key(self, step: EngineStep) -> TextStep:
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
            text=decoder.feed(step.token_ids) + decoder.finish(),
            finish_reason="",
            num_input_tokens=0,
            num_output_tokens=len(step.token_ids),
        )
