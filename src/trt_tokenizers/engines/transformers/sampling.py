"""Requests inside transformers' continuous batching: their state, sampling, ends and delivery.

Imports torch and transformers, so only a running `TransformersEngine` imports it. What the
library (5.23) gives each request is temperature, top_k, top_p, a length and end ids; the classes
here put every parameter of a `GenerationRequest` in, through its own base classes:

- `Row`, a request state, ends at stop words too and reports only its new tokens, where the
  library copies all that was generated at every token; all it knows is in its `Job`;
- `RowProcessor`, the one logits processor, gives each row its own job's processing;
- `Router` takes the outputs, and `Scheduler` the cancelled rows, to the engine.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers.generation import logits_process as lp
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.model_runner import (
    infer_max_single_request_tokens,
)
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler
from transformers.generation.continuous_batching.utils import (
    find_head_dim,
    find_num_key_value_heads,
    get_device_and_memory_breakdown,
)

from trt_tokenizers.engines.base import Chunk, FinishReason, GenerationRequest, StopWords
from trt_tokenizers.engines.transformers._bias import EmbeddingBias
from trt_tokenizers.errors import one_line

logger = logging.getLogger(__name__)

Output = tuple[str, Chunk]  # a request's id in the manager, and what is new of it


def longest_sequence(manager: Any) -> int:
    """Tokens of the longest sequence that fits in the empty KV cache."""
    return int(infer_max_single_request_tokens(manager.batch_processor.cache))


def cached_tokens(model: Any, most: int, batch_tokens: int) -> int:
    """How many tokens a KV cache of *most* bytes, or a quarter of the free memory, holds, and with
    it the mask that sdpa needs: *batch_tokens* rows, a column for each cached token."""
    config = model.config.get_text_config()
    numbers = (
        2 * config.num_hidden_layers * find_num_key_value_heads(config) * find_head_dim(config)
    )
    _, total, _, used = get_device_and_memory_breakdown()
    memory = min(most, (total - used) // 4)
    return int(memory // ((numbers + batch_tokens) * model.dtype.itemsize))


class CountPenalty(lp.LogitsProcessor):  # type: ignore[misc]
    """Presence and frequency penalty, which transformers lacks: as OpenAI defines them, an id that
    was generated n > 0 times loses ``presence + n * frequency``."""

    def __init__(self, presence: float, frequency: float, prompt_length: int) -> None:
        self.presence = presence
        self.frequency = frequency
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """*input_ids* [1, n], the prompt first; *scores* [1, vocab]."""
        counts = input_ids[0, self.prompt_length :].bincount(minlength=scores.shape[1])
        return scores - self.presence * (counts > 0) - self.frequency * counts


class Nucleus(lp.LogitsProcessor):  # type: ignore[misc]
    """transformers' TopPLogitsWarper without its sort of the whole vocabulary, which takes longer
    than all the rest: 3.6 ms a token at 49,152 ids."""

    def __init__(self, top_p: float) -> None:
        self.top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """*scores* [1, vocab]."""
        probs = scores[0].softmax(0)
        # Ids below this hold less than 1 - top_p even together, so none is in the nucleus.
        likely = (probs >= (1 - self.top_p) / len(probs)).nonzero()[:, 0]
        probs, order = probs[likely].sort(descending=True)
        inside = likely[order[probs.cumsum(0) - probs < self.top_p]]
        kept = torch.full_like(scores, -torch.inf)
        kept[0, inside] = scores[0, inside]
        return kept


#: These need the scores only.
_WITHOUT_IDS = (
    lp.TemperatureLogitsWarper, lp.TopKLogitsWarper, Nucleus, lp.MinPLogitsWarper
)  # fmt: skip


def _processors(r: GenerationRequest) -> list[lp.LogitsProcessor]:
    """What *r* asks for beyond plain greedy, in the order in which ``generate`` applies it."""
    found: list[lp.LogitsProcessor] = []
    if r.embedding_bias is not None:
        found.append(EmbeddingBias(r.embedding_bias))
    if r.repetition_penalty != 1:
        found.append(lp.RepetitionPenaltyLogitsProcessor(float(r.repetition_penalty)))
    if r.presence_penalty or r.frequency_penalty:
        found.append(CountPenalty(r.presence_penalty, r.frequency_penalty, len(r.prompt_ids)))
    if r.bad_words:
        found.append(lp.NoBadWordsLogitsProcessor([list(word) for word in r.bad_words]))
    if not r.greedy:
        if r.temperature != 1:
            # Any lower, and scores overflow.
            found.append(lp.TemperatureLogitsWarper(max(float(r.temperature), 1e-6)))
        if r.top_k:
            found.append(lp.TopKLogitsWarper(r.top_k))
        if r.top_p < 1:
            found.append(Nucleus(r.top_p))
        if r.min_p:
            found.append(lp.MinPLogitsWarper(float(r.min_p)))
    return found


class Job:
    """One request and how far it is. It outlives its `Row`, which eviction from the cache ends.

    Attributes:
        generated: every token so far.
        finish_reason: set with the last token, or from outside.
        error: why the request failed; nothing more is generated.
    """

    def __init__(self, request: GenerationRequest, device: torch.device) -> None:
        self.request = request
        self.generated: list[int] = []
        self.finish_reason = FinishReason.NOT_FINISHED
        self.error: str | None = None
        self._log_probs: list[float] = []
        self._sent = 0
        self._stops = StopWords(request.stop_words, request.min_tokens)
        self._seed = secrets.randbits(63) if request.seed is None else request.seed
        self._generator = None if request.greedy else torch.Generator(device)
        self._processors = _processors(request)
        # What may not come before min_tokens: the end ids, and stop words of one token, which is
        # how a model's other end ids arrive.
        ends = request.end_ids | {w[0] for w in request.stop_words if len(w) == 1}
        self._ends = torch.tensor(sorted(ends), dtype=torch.long, device=device)
        self._scores: torch.Tensor | None = None  # [vocab], as processed, without noise
        self._ids: torch.Tensor | None = None  # [1, prompt + max_tokens]
        if not all(isinstance(p, _WITHOUT_IDS) for p in self._processors):
            prompt = torch.tensor(request.prompt_ids)
            self._ids = torch.zeros((1, len(prompt) + request.max_tokens), dtype=torch.long)
            self._ids[0, : len(prompt)] = prompt
            self._ids = self._ids.to(device)

    @property
    def plain(self) -> bool:
        """Whether the model's own scores are all that the next token needs."""
        masked = len(self.generated) < self.request.min_tokens and len(self._ends) > 0
        return not (masked or self._processors or self._generator or self.request.return_log_probs)

    @property
    def done(self) -> bool:
        return self.error is not None or self.finish_reason is not FinishReason.NOT_FINISHED

    def process(self, scores: torch.Tensor) -> torch.Tensor:
        """The model's scores of the next token [1, vocab], float32, which are left as they are ->
        scores whose maximum is the token to take."""
        r, step = self.request, len(self.generated)
        if step < r.min_tokens:
            scores = scores.index_fill(1, self._ends, -torch.inf)
        ids = None
        if self._ids is not None:
            length = len(r.prompt_ids) + step
            if step:
                self._ids[0, length - 1] = self.generated[-1]
            ids = self._ids[:, :length]
        for processor in self._processors:
            scores = processor(ids, scores)
        if r.return_log_probs:
            self._scores = scores[0]
        if self._generator is not None:
            # The maximum of scores + Gumbel noise is a draw from softmax(scores). The noise comes
            # of seed and step alone, so it is the same in any batch and after an eviction.
            seed = hashlib.blake2b(f"{self._seed} {step}".encode(), digest_size=8).digest()
            self._generator.manual_seed(int.from_bytes(seed, "big"))
            noise = torch.rand(scores.shape, generator=self._generator, device=scores.device)
            scores = scores - noise.log_().neg_().log_()
        return scores

    def add(self, token: int) -> None:
        """Take the token that was chosen."""
        r = self.request
        self.generated.append(token)
        if self._scores is not None:
            self._log_probs.append(float(self._scores[token] - self._scores.logsumexp(0)))
            self._scores = None
        count = len(self.generated)
        if token in r.end_ids or self._stops.at(self.generated, count):
            self.finish_reason = FinishReason.STOP
        elif count == r.max_tokens:
            self.finish_reason = FinishReason.LENGTH

    def news(self) -> Chunk:
        """What came since the last call."""
        start, self._sent = self._sent, len(self.generated)
        return Chunk(
            token_ids=tuple(self.generated[start:]),
            log_probs=tuple(self._log_probs[start:]),
            finish_reason=self.finish_reason,
            error=self.error,
        )


class Row(RequestState):  # type: ignore[misc]
    """A `Job` in the batch."""

    def __init__(self, job: Job) -> None:
        super().__init__(
            request_id=str(job.request.key),
            initial_tokens=[*job.request.prompt_ids, *job.generated],
            max_new_tokens=None,  # the job knows its ends
            streaming=job.request.stream,
        )
        self.job = job

    def update_and_check_completion(self, token_id: int, logprob: float | None) -> bool:
        super().update_and_check_completion(token_id, None)
        if self.job.error is None:
            self.job.add(token_id)
        if self.job.done:
            self.status = RequestStatus.FINISHED
        return self.job.done

    def to_generation_output(self) -> Output:
        return self.request_id, self.job.news()

    def create_equivalent_initial_request(self) -> Row:
        """Evicted from the KV cache, the job goes on in a new row, which is prefilled anew."""
        return Row(self.job)


class RowProcessor(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Gives each row its own job's processing; rows that need none cost nothing."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 - as its base class declares it
    ignored_kwargs = ()

    def __init__(self) -> None:
        self._jobs: list[tuple[int, Job]] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """Remember which row of the next scores is whose; the device need not be told."""
        jobs = (request.state.job for request in requests_with_new_token)
        self._jobs = [(row, job) for row, job in enumerate(jobs) if not job.plain]
        return torch.empty(0, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """*scores* [rows, vocab], float32, changed in place."""
        for row, job in self._jobs:
            before = scores[row : row + 1]
            try:
                after = job.process(before)
            except Exception as error:
                logger.exception("request %d failed", job.request.key)
                job.error = f"choosing a token failed: {one_line(error)}"
            else:
                if after is not before:
                    before.copy_(after)
        return scores


class Router(OutputRouter):  # type: ignore[misc]
    """Takes outputs to *deliver* and failures to *fail*, on the generation thread."""

    def __init__(
        self, deliver: Callable[[Output], None], fail: Callable[[str, BaseException], None]
    ) -> None:
        super().__init__()
        self._deliver = deliver
        self._fail = fail

    def deliver_batch(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            self._deliver(output)

    def fail_and_deliver(self, state: Row, error: Exception) -> None:
        state.status = RequestStatus.FAILED
        self._fail(state.request_id, error)


class Scheduler(FIFOScheduler):  # type: ignore[misc]
    """The library's default one, which also tells who was cancelled, without two faults of 5.23."""

    deliver: Callable[[Output], None]  # set by the engine
    _early: frozenset[str] = frozenset()
    _requests_to_cancel: Any

    def clear_cancelled_requests(self) -> list[Row]:
        # New requests leave their queue before cancellations leave theirs, so a cancellation may
        # come one round before its request.
        known = self.active_requests.keys() | self.waiting_requests.keys()
        early = frozenset(self._requests_to_cancel - known)
        # In an order that is the same on all ranks, which a set of strings does not have.
        self._requests_to_cancel = sorted(self._requests_to_cancel | self._early)
        self._early = early
        cancelled: list[Row] = super().clear_cancelled_requests()
        if cancelled:
            # After an eviction no request is let in until another one finishes. Were it cancelled
            # instead, they would wait for ever.
            self.block_new_requests = False
        for row in cancelled:
            row.job.finish_reason = FinishReason.CANCELLED
            self.deliver(row.to_generation_output())
        return cancelled


SCHEDULER = "trt_tokenizers"  # its name in the manager's configuration
SCHEDULER_MAPPING[SCHEDULER] = Scheduler
