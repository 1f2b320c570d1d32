"""The engine seam: token ids in, token ids out. Its docstrings are the engine author's manual.

An engine runs inside Triton's Python model ``tensorrt_llm``; the backend turns tensors into a
`GenerationRequest`, calls `Engine.submit`, and sends every `Chunk` that the engine emits. The
engine knows nothing of Triton, text or tokenizers::

    class Echo(Engine):
        supported = frozenset({"max_tokens"})

        def __init__(self, settings: Mapping[str, str]) -> None:
            self.max_seq_len = 1024

        def submit(self, request: GenerationRequest, emit: Emit) -> None:
            ids = request.prompt_ids[: request.max_tokens]
            emit(Chunk(token_ids=tuple(ids), finish_reason=FinishReason.LENGTH))

        def cancel(self, key: int) -> None: ...
        def stop(self) -> None: ...

registered in its package's pyproject.toml::

    [project.entry-points."trt_tokenizers.engines"]
    echo = "my_package:Echo"
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from trt_tokenizers.errors import RequestError
from trt_tokenizers.streams.limits import check_length
from trt_tokenizers.streams.stream_key import FinishReason

__all__ = [
    "ENGINES",
    "Chunk",
    "Emit",
    "Engine",
    "FinishReason",
    "GenerationRequest",
    "StopWords",
    "check_ids",
    "validate",
]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate. A parameter that the client did not send holds its default.

    Attributes:
        key: identifies the sequence; unique among those that are alive.
        prompt_ids: at least one id.
        max_tokens: tokens to generate at the most, EOS included, at least 1.
        stream: emit chunks as they come; otherwise one chunk with everything.
        end_ids: ids that end the sequence; the one that did is emitted as its last token.
        stop_words: id sequences that end the sequence when they appear; they are emitted.
        bad_words: id sequences that must not appear.
        embedding_bias: float32 [vocabulary], added to the logits; None for none.
        temperature: 0 means greedy, as does ``top_k`` 1.
        top_k: 0 means no limit.
        top_p: in (0, 1]; 1 means no limit. Unless the client gives temperature, top_k or top_p,
            the sequence is greedy (`greedy` says so).
        min_tokens: no end id and no stop word ends the sequence before this many tokens. An
            answer has one token at least unless the client says 0, as in TensorRT-LLM.
        seed: same seed, same prompt, same parameters: same ids. None draws one.
        return_log_probs: emit the log-probability of each token, after processing.
        return_perf_metrics: the last chunk has `Chunk.perf`.
        guide: a kind of guide, and what the answer must follow: ``("regex", "[0-9]+")``; empty
            where the kind says it all.
        lora: name of the adapter to use.
        given: the names of the parameters that the client sent, as in the ensemble.
        row: which text of the client's request it answers.
        sequence: which of several answers to that text; None for the only one.
    """

    key: int
    prompt_ids: tuple[int, ...]
    max_tokens: int
    stream: bool = False
    end_ids: frozenset[int] = frozenset()
    pad_id: int | None = None
    stop_words: tuple[tuple[int, ...], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    embedding_bias: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 1
    seed: int | None = None
    return_log_probs: bool = False
    return_perf_metrics: bool = False
    guide: tuple[str, str] | None = None
    lora: str | None = None
    given: frozenset[str] = field(default_factory=frozenset)
    row: int = 0
    sequence: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken at every step."""
        if self.temperature == 0 or self.top_k == 1:
            return True
        return not (self.given & {"temperature", "top_k", "top_p"})


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of one sequence, in order.

    Attributes:
        token_ids: only the new ones; may be empty in the last chunk.
        log_probs: one per token id if the request asked for them, else empty.
        finish_reason: anything but NOT_FINISHED marks the last chunk of the sequence.
        error: the engine failed this sequence; also the last chunk. One clear line.
        refused: the error is the client's fault, found after `Engine.submit`.
        perf: figures of the whole sequence, in its last chunk, by their names in the ensemble.
    """

    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    finish_reason: FinishReason = FinishReason.NOT_FINISHED
    error: str | None = None
    refused: bool = False
    perf: Mapping[str, float] | None = None

    @property
    def last(self) -> bool:
        return self.error is not None or self.finish_reason is not FinishReason.NOT_FINISHED


#: The entry-point group of engines.
ENGINES = "trt_tokenizers.engines"

#: Receives the chunks of one sequence; called from any thread, returns at once, never raises.
Emit = Callable[[Chunk], None]


class Engine(ABC):
    """Generates token ids for many sequences at once.

    Constructed once, with the model's ``parameters`` (strings) of config.pbtxt less those of the
    backend itself; parse them with `trt_tokenizers.settings.parse`. Construction loads the model
    and returns when requests can be served.
    """

    #: Names of the sampling parameters (as in the ensemble) that this engine honours. A request
    #: that gives another one is refused before `submit`.
    supported: ClassVar[frozenset[str]]

    #: Prompt and generated tokens together, at the most.
    max_seq_len: int

    #: Why the engine serves nothing any more, once it has failed for good. Its process is then
    #: ended, so that whoever watches the server sees it.
    died: str | None = None

    #: Values of the engine's own gauges by their names in `processing.metrics`.
    gauges: Mapping[str, Callable[[], float]] = MappingProxyType({})

    #: Whether this process serves requests. An engine that runs over several ranks sets it to False
    #: on all but one of them.
    leads: bool = True

    @abstractmethod
    def __init__(self, settings: Mapping[str, str]) -> None: ...

    @classmethod
    def check(cls, settings: Mapping[str, str]) -> None:
        """Refuse settings that cannot work, without loading anything; for `trt-tokenizers check`.

        Raises:
            SettingsError: names the setting.
        """
        return

    @abstractmethod
    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        """Start generating; returns at once. *emit* gets every chunk, the last one with a
        finish reason or an error. The request has passed `validate`.

        Raises:
            EngineError: the engine cannot take requests any more.
            RequestError: this request cannot be served as it is.
        """

    def follow(self) -> None:
        """Called instead of `submit` where the engine does not lead: do this rank's part of the
        work; return once the leader has stopped and everything here is freed.

        Raises:
            EngineError: the leader did not stop, it is gone, or this rank has failed.
        """
        raise NotImplementedError(f"{type(self).__name__} does not lead and cannot follow")

    @abstractmethod
    def cancel(self, key: int) -> None:
        """Stop generating for *key*; its last chunk has `FinishReason.CANCELLED`. Unknown keys
        are ignored: the sequence may just have ended."""

    @abstractmethod
    def stop(self) -> None:
        """End all sequences and free everything. Called once."""


def validate(request: GenerationRequest, engine: Engine) -> None:
    """Refuse what cannot be served, naming parameter, value and mend.

    Raises:
        RequestError: always the client's fault.
    """
    r = request
    for name in sorted(r.given - engine.supported):
        raise RequestError(
            f"parameter {name!r} is not supported by this engine ({type(engine).__name__}); "
            "leave it out"
        )
    check_length(len(r.prompt_ids), r.max_tokens, engine.max_seq_len)
    _bounded("temperature", r.temperature, 0.0, 100.0)
    _bounded("top_k", r.top_k, 0, 2**31 - 1)
    if not 0.0 < r.top_p <= 1.0:
        raise RequestError(f"top_p is {r.top_p:g}; it must be above 0 and at most 1")
    if not 0.0 < r.repetition_penalty <= 100.0:
        raise RequestError(
            f"repetition_penalty is {r.repetition_penalty:g}; it must be above 0 and at most 100"
        )
    _bounded("presence_penalty", r.presence_penalty, -100.0, 100.0)
    _bounded("frequency_penalty", r.frequency_penalty, -100.0, 100.0)
    if not 0 <= r.min_tokens <= r.max_tokens:
        raise RequestError(
            f"min_tokens is {r.min_tokens}; it must be between 0 and max_tokens ({r.max_tokens})"
        )


def check_ids(request: GenerationRequest, vocab_size: int) -> None:
    """Refuse what is no token of the model, which would fail inside an engine and may take others
    along.

    Args:
        vocab_size: 0 if not known.

    Raises:
        RequestError: an id outside the vocabulary, or an empty word.
    """
    r = request
    for name, ids in (
        ("the prompt", r.prompt_ids),
        *(("end_id", (end_id,)) for end_id in r.end_ids),
        *(("stop_words", word) for word in r.stop_words),
        *(("bad_words", word) for word in r.bad_words),
    ):
        if not ids:
            raise RequestError(f"{name} holds nothing where token ids should be; leave it out")
        for extreme in (min(ids), max(ids)):
            if vocab_size and not 0 <= extreme < vocab_size:
                raise RequestError(
                    f"{name} holds the token id {extreme}; the model's ids are 0 to "
                    f"{vocab_size - 1}"
                )


class StopWords:
    """Finds where stop words end in generated ids."""

    def __init__(self, words: Sequence[Sequence[int]], min_tokens: int) -> None:
        self._min_tokens = min_tokens
        self._words: dict[int, list[list[int]]] = {}  # by their last id
        for word in words:
            self._words.setdefault(word[-1], []).append(list(word))

    def at(self, ids: list[int], count: int) -> bool:
        """Whether one ends with the token number *count*, at least 1, of *ids*."""
        return count >= self._min_tokens and any(
            ids[max(0, count - len(word)) : count] == word
            for word in self._words.get(ids[count - 1], ())
        )


def _bounded(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise RequestError(f"{name} is {value:g}; it must be between {low:g} and {high:g}")
