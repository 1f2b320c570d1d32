"""The engine interface: token ids in, token ids out. These docstrings are the manual for authors.

An engine runs inside Triton's Python model ``tensorrt_llm``. The backend turns tensors into a
`GenerationRequest`, calls `Engine.submit`, and sends every `Chunk` that the engine emits. The
engine does not see Triton, text or tokenizers::

    class Echo(Engine):
        supported = frozenset({"max_tokens"})

        def __init__(self, settings: Mapping[str, str]) -> None:
            self.max_seq_len = 1024

        def submit(self, request: GenerationRequest, emit: Emit) -> None:
            ids = request.prompt_ids[: request.max_tokens]
            emit(Chunk(token_ids=tuple(ids), finish_reason=FinishReason.LENGTH))

        def cancel(self, key: int) -> None: ...
        def stop(self) -> None: ...

``supported`` holds names of `ensemble_inputs.INPUTS`. The package of the engine registers it in its
pyproject.toml::

    [project.entry-points."trt_tokenizers.engines"]
    echo = "my_package:Echo"
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from trt_tokenizers.engines.word_automaton import WordAutomaton
from trt_tokenizers.errors import RequestError
from trt_tokenizers.streams.ensemble_inputs import INPUTS, SAMPLING, default
from trt_tokenizers.streams.limits import check_length
from trt_tokenizers.streams.stream_key import FinishReason

__all__ = [
    "ENGINES", "PARAMETERS", "Chunk", "Emit", "Engine", "FinishReason", "GenerationRequest",
    "StopWords", "check_ids", "validate",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate. A parameter that the client did not send has its default.

    `ensemble_inputs.INPUTS` has their meanings, their defaults and the ranges that `validate`
    checks.

    Attributes:
        key: identifies the sequence; unique among running ones.
        prompt_ids: at least one id.
        max_tokens: maximum number of generated tokens, EOS included; at least 1.
        stream: emit chunks as they are generated; otherwise one with everything.
        end_ids: ids that end the sequence; the one that does is emitted as its last token.
        stop_words: id sequences that end the sequence when they appear; they are emitted.
        bad_words: id sequences that must not appear.
        embedding_bias: float32 [vocabulary], added to the logits; None for none.
        temperature: 0 means greedy, as does ``top_k`` 1; see `greedy`.
        min_tokens: no end id and no stop word ends the sequence before this many tokens. The
            default is one token, as in TensorRT-LLM; 0 allows an empty answer.
        seed: same seed, same prompt, same parameters: same ids. None draws one.
        return_log_probs: emit the log-probability of each token, after processing.
        return_perf_metrics: the last chunk has `Chunk.perf`.
        guide: kind of guide, and what the answer must follow: ``("regex", "[0-9]+")``; the latter
            is empty for kinds without a text.
        lora: name of the LoRA adapter to use.
        given: the client's names of the parameters that it sent.
        row: which text of the client's request the sequence answers.
        sequence: which of several answers to that text; None for a single one.
    """

    key: int
    prompt_ids: tuple[int, ...]
    max_tokens: int
    stream: bool = default("stream")
    end_ids: frozenset[int] = frozenset()
    pad_id: int | None = None
    stop_words: tuple[tuple[int, ...], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    embedding_bias: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    temperature: float = default("temperature")
    top_k: int = default("top_k")
    top_p: float = default("top_p")
    min_p: float = default("min_p")
    repetition_penalty: float = default("repetition_penalty")
    presence_penalty: float = default("presence_penalty")
    frequency_penalty: float = default("frequency_penalty")
    min_tokens: int = default("min_tokens")
    seed: int | None = None
    return_log_probs: bool = default("return_log_probs")
    return_perf_metrics: bool = default("return_perf_metrics")
    guide: tuple[str, str] | None = None
    lora: str | None = None
    given: frozenset[str] = field(default_factory=frozenset)
    row: int = 0
    sequence: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken at every step: with temperature 0 or top_k 1,
        and unless the client sent one of `ensemble_inputs.SAMPLING`."""
        return self.temperature == 0 or self.top_k == 1 or not (self.given & SAMPLING)


_FIELDS = frozenset(each.name for each in fields(GenerationRequest))
#: Inputs of the engine that each hold a field of `GenerationRequest`.
PARAMETERS = [each for each in INPUTS if each.to_engine and each.target in _FIELDS]
_RANGED = [each for each in PARAMETERS if each.range is not None]


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of one sequence, in order.

    Attributes:
        token_ids: only the new ones; may be empty in the last chunk.
        log_probs: one per token id if the request asks for them, else empty.
        finish_reason: any value but NOT_FINISHED marks the last chunk of the sequence.
        error: the sequence failed; also marks the last chunk. One clear line.
        refused: the error is the client's fault, detected after `Engine.submit`.
        perf: figures of the whole sequence, in its last chunk; keys are names in the ensemble.
    """

    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    finish_reason: FinishReason = FinishReason.NOT_FINISHED
    error: str | None = None
    refused: bool = False
    perf: Mapping[str, float] | None = None

    @property
    def last(self) -> bool:
        """Whether no chunk of the sequence follows."""
        return self.error is not None or self.finish_reason is not FinishReason.NOT_FINISHED


#: The entry-point group of engines.
ENGINES = "trt_tokenizers.engines"

#: Receives the chunks of one sequence; called from any thread, returns at once, never raises.
Emit = Callable[[Chunk], None]


class Engine(ABC):
    """Generates token ids for many sequences at once.

    Constructed once, with the model's ``parameters`` (strings) of config.pbtxt without those of
    the backend; parse them with `trt_tokenizers.settings.parse`. Construction loads the model and
    returns when the engine can serve requests.
    """

    #: Names of the parameters (as in the ensemble) that this engine honours. `validate` refuses a
    #: request with any other sampling parameter before `submit`.
    supported: ClassVar[frozenset[str]]

    #: The dataclass with the engine's own parameters, for `generate` and the settings reference.
    settings_class: ClassVar[type | None] = None

    #: Maximum number of prompt and generated tokens together.
    max_seq_len: int

    #: Sequences that the engine generates at once; further ones wait. 0 if unknown.
    max_batch_size: int = 0

    #: Why the engine has failed permanently; None while it serves. The backend then ends the
    #: process, because Triton reports a model with a dead engine as ready.
    died: str | None = None

    #: Name in `processing.metrics` -> current value, for gauges that only some engines have.
    gauges: Mapping[str, Callable[[], float]] = MappingProxyType({})

    #: Whether this process serves requests. An engine on several ranks sets it to False on all
    #: ranks but one.
    leads: bool = True

    @abstractmethod
    def __init__(self, settings: Mapping[str, str]) -> None: ...

    @classmethod
    def check(cls, settings: Mapping[str, str]) -> None:
        """Refuse settings that cannot work, without loading a model; for `trt-tokenizers check`.

        Raises:
            SettingsError: names the setting.
        """
        return

    @abstractmethod
    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        """Start generating and return at once. *emit* gets every chunk, the last one with a
        finish reason or an error. The request has passed `validate`. A chunk after the last one is
        dropped, so a step needs no lock against `cancel` from another thread.

        Raises:
            EngineError: the engine takes no more requests.
            RequestError: the engine cannot serve this request.
        """

    def follow(self) -> None:
        """Do this rank's part of the work; called instead of `submit` if `leads` is false.
        Returns once the leader has stopped and this rank has freed its memory.

        Raises:
            EngineError: the leader failed or disappeared, or this rank failed.
        """
        raise NotImplementedError(f"{type(self).__name__} does not lead and cannot follow")

    @abstractmethod
    def cancel(self, key: int) -> None:
        """Stop generating for *key*; its last chunk has `FinishReason.CANCELLED`. Ignore unknown
        keys: the sequence may have ended already."""

    @abstractmethod
    def stop(self) -> None:
        """End all sequences and free all memory. Called once."""


def validate(request: GenerationRequest, engine: Engine) -> None:
    """Refuse parameters that *engine* does not support, or that are out of range.

    Raises:
        RequestError: names the parameter, its value and the fix.
    """
    for name in sorted(request.given - engine.supported):
        raise RequestError(
            f"parameter {name!r} is not supported by this engine ({type(engine).__name__}); "
            "leave it out"
        )
    check_length(len(request.prompt_ids), request.max_tokens, engine.max_seq_len)
    for each in _RANGED:
        if each.name in request.given:
            each.check(getattr(request, each.target))
    if request.min_tokens > request.max_tokens:
        raise RequestError(
            f"min_tokens is {request.min_tokens}; it must be at most max_tokens "
            f"({request.max_tokens})"
        )


def check_ids(request: GenerationRequest, vocab_size: int) -> None:
    """Refuse ids outside the vocabulary: they fail inside an engine, possibly with other requests.

    Args:
        request: whose prompt, end ids and word lists to check.
        vocab_size: 0 if unknown.

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
            raise RequestError(f"{name} holds no token ids; leave it out")
        for extreme in (min(ids), max(ids)):
            if vocab_size and not 0 <= extreme < vocab_size:
                raise RequestError(
                    f"{name} holds the token id {extreme}; the model's ids are 0 to "
                    f"{vocab_size - 1}"
                )


class StopWords:
    """Detects stop words at the end of the generated ids."""

    def __init__(self, words: Sequence[Sequence[int]], min_tokens: int) -> None:
        self._automaton = WordAutomaton(words)
        self._state = 0
        self._left = min_tokens  # tokens until a word may end the sequence

    def add(self, token: int) -> bool:
        """Whether a stop word ends with *token*, the next one."""
        self._state = self._automaton.step(self._state, token)
        self._left -= 1
        return self._left <= 0 and self._automaton.matches(self._state)
