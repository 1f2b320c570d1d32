"""Requests inside transformers' continuous batching: state, sampling and end.

Imports torch and transformers, so only a running `TransformersEngine` imports this file. For each
request the library (5.23) supports temperature, top_k, top_p, a length and end ids. `Job`, `Row`
and `RowProcessor` extend its classes to support every parameter of a `GenerationRequest`. A `Row`
also reports new tokens only; the library copies all generated tokens at every token.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.generation import logits_process as lp
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from trt_tokenizers.engines.base import Chunk, FinishReason, GenerationRequest, StopWords
from trt_tokenizers.engines.transformers.guides import Guide
from trt_tokenizers.engines.word_automaton import WordAutomaton
from trt_tokenizers.errors import RequestError, one_line

logger = logging.getLogger(__name__)

Output = tuple[str, Chunk]  # the request's id in the manager, and its new tokens


class EmbeddingBias(lp.LogitsProcessor):  # type: ignore[misc]
    """Adds a client's float32 [vocabulary] to every row's scores."""

    def __init__(self, bias: npt.NDArray[np.float32]) -> None:
        self._bias = torch.from_numpy(np.array(bias))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._bias = self._bias.to(scores.device)
        # Models pad their vocabulary; rows beyond the tokenizer's get no bias.
        width = min(scores.shape[-1], len(self._bias))
        scores[..., :width] += self._bias[:width]
        return scores


class CountPenalty(lp.LogitsProcessor):  # type: ignore[misc]
    """OpenAI's presence and frequency penalty, which transformers lacks: an id that was generated
    n > 0 times loses ``presence + n * frequency``."""

    def __init__(self, presence: float, frequency: float, prompt_length: int) -> None:
        self.presence = presence
        self.frequency = frequency
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """*input_ids* [1, n], the prompt first; *scores* [1, vocab]."""
        counts = input_ids[0, self.prompt_length :].bincount(minlength=scores.shape[1])
        return scores - self.presence * (counts > 0) - self.frequency * counts


class BadWords(lp.LogitsProcessor):  # type: ignore[misc]
    """transformers' NoBadWordsLogitsProcessor, but a token costs the same for one word and for
    10,000 of them."""

    def __init__(self, words: tuple[tuple[int, ...], ...]) -> None:
        self._single = torch.tensor([word[0] for word in words if len(word) == 1], dtype=torch.long)
        self._automaton = WordAutomaton(words)
        self._state = 0
        self._seen = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """*input_ids* [1, n], the prompt first; *scores* [1, vocab]."""
        for token in input_ids[0, self._seen :].tolist():
            self._state = self._automaton.step(self._state, token)
        self._seen = input_ids.shape[1]
        self._single = self._single.to(scores.device)
        last = torch.tensor(
            list(self._automaton.completions(self._state)), dtype=torch.long, device=scores.device
        )
        return scores.index_fill(1, torch.cat((self._single, last)), -torch.inf)


class Nucleus(lp.LogitsProcessor):  # type: ignore[misc]
    """transformers' TopPLogitsWarper, but it does not sort the whole vocabulary. That sort takes
    3.6 ms per token at 49,152 ids, more than all other processing."""

    def __init__(self, top_p: float) -> None:
        self.top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """*scores* [1, vocab]."""
        probs = scores[0].softmax(0)
        # All ids below this sum to less than 1 - top_p, so none of them is in the nucleus.
        likely = (probs >= (1 - self.top_p) / len(probs)).nonzero()[:, 0]
        probs, order = probs[likely].sort(descending=True)
        inside = likely[order[probs.cumsum(0) - probs < self.top_p]]
        kept = torch.full_like(scores, -torch.inf)
        kept[0, inside] = scores[0, inside]
        return kept


# Processors that read scores only, not the ids so far.
_WITHOUT_IDS = (lp.TemperatureLogitsWarper, lp.TopKLogitsWarper, Nucleus, lp.MinPLogitsWarper)


def _processors(r: GenerationRequest) -> list[lp.LogitsProcessor]:
    """Processors for the parameters of *r*, in the order in which ``generate`` applies them."""
    found: list[lp.LogitsProcessor] = []
    if r.embedding_bias is not None:
        found.append(EmbeddingBias(r.embedding_bias))
    if r.repetition_penalty != 1:
        found.append(lp.RepetitionPenaltyLogitsProcessor(float(r.repetition_penalty)))
    if r.presence_penalty or r.frequency_penalty:
        found.append(CountPenalty(r.presence_penalty, r.frequency_penalty, len(r.prompt_ids)))
    if r.bad_words:
        found.append(BadWords(r.bad_words))
    if not r.greedy:
        if r.temperature != 1:
            # Below 1e-6 scores overflow.
            found.append(lp.TemperatureLogitsWarper(max(float(r.temperature), 1e-6)))
        if r.top_k:
            found.append(lp.TopKLogitsWarper(r.top_k))
        if r.top_p < 1:
            found.append(Nucleus(r.top_p))
        if r.min_p:
            found.append(lp.MinPLogitsWarper(float(r.min_p)))
    return found


class Job:
    """The state of one request. It outlives its `Row`, which ends at eviction from the KV cache.

    Attributes:
        generated: all tokens so far.
        finish_reason: set with the last token, or by the scheduler on cancel.
        error: why the request failed; generation has ended then.
        refused: whether the error is the client's fault.
        guide: the state of the request's guide; None without one, and on ranks that do not lead.
    """

    def __init__(
        self, request: GenerationRequest, device: torch.device, guide: Guide | None = None
    ) -> None:
        self.request = request
        self.guide = guide
        self.generated: list[int] = []
        self.finish_reason = FinishReason.NOT_FINISHED
        self.error: str | None = None
        self.refused = False
        self._log_probs: list[float] = []
        self._sent = 0
        self._stop_words = StopWords(request.stop_words, request.min_tokens)
        self._seed = secrets.randbits(63) if request.seed is None else request.seed
        self._generator = None if request.greedy else torch.Generator(device)
        self._processors = _processors(request)
        # Not allowed before min_tokens: end ids and stop words of one token. A model's further end
        # ids arrive as stop words.
        ends = request.end_ids | {w[0] for w in request.stop_words if len(w) == 1}
        self._suppressed = torch.tensor(sorted(ends), dtype=torch.long, device=device)
        self._scores: torch.Tensor | None = None  # [vocab], processed, without noise
        self._ids: torch.Tensor | None = None  # [1, prompt + max_tokens]
        if not all(isinstance(p, _WITHOUT_IDS) for p in self._processors):
            prompt = torch.tensor(request.prompt_ids)
            self._ids = torch.zeros((1, len(prompt) + request.max_tokens), dtype=torch.long)
            self._ids[0, : len(prompt)] = prompt
            self._ids = self._ids.to(device)

    @property
    def plain(self) -> bool:
        """Whether the next token needs no processing of the model's scores."""
        masked = len(self.generated) < self.request.min_tokens and len(self._suppressed) > 0
        r = self.request
        return not (masked or self._processors or self._generator or r.return_log_probs or r.guide)

    @property
    def done(self) -> bool:
        """Whether generation has ended, with or without an error."""
        return self.error is not None or self.finish_reason is not FinishReason.NOT_FINISHED

    def process(self, scores: torch.Tensor) -> torch.Tensor:
        """Process *scores* of the next token, float32 [1, vocab]; they are not changed in place.

        Returns:
            Scores whose maximum is the token to take.
        """
        r, step = self.request, len(self.generated)
        if step < r.min_tokens:
            scores = scores.index_fill(1, self._suppressed, -torch.inf)
        ids = None
        if self._ids is not None:
            length = len(r.prompt_ids) + step
            if step:
                self._ids[0, length - 1] = self.generated[-1]
            ids = self._ids[:, :length]
        for processor in self._processors:
            scores = processor(ids, scores)
        excluding = step < r.min_tokens or r.bad_words or r.embedding_bias is not None
        if self.guide is not None and excluding and scores.max() == -torch.inf:
            raise RequestError("bad_words or min_tokens exclude all tokens that the guide allows")
        if r.return_log_probs:
            self._scores = scores[0]
        if self._generator is not None:
            # argmax(scores + Gumbel noise) samples from softmax(scores). The noise depends on seed
            # and step only, so it is the same in any batch and after an eviction.
            seed = hashlib.blake2b(f"{self._seed} {step}".encode(), digest_size=8).digest()
            self._generator.manual_seed(int.from_bytes(seed, "big"))
            noise = torch.rand(scores.shape, generator=self._generator, device=scores.device)
            scores = scores - noise.log_().neg_().log_()
        return scores

    def add(self, token: int) -> None:
        """Append the chosen *token*."""
        r = self.request
        self.generated.append(token)
        if self._scores is not None:
            self._log_probs.append(float(self._scores[token] - self._scores.logsumexp(0)))
            self._scores = None
        count = len(self.generated)
        if self._stop_words.add(token) or token in r.end_ids:
            self.finish_reason = FinishReason.STOP
        elif count == r.max_tokens:
            self.finish_reason = FinishReason.LENGTH

    def new_chunk(self) -> Chunk:
        """The tokens since the last call."""
        start, self._sent = self._sent, len(self.generated)
        return Chunk(
            token_ids=tuple(self.generated[start:]),
            log_probs=tuple(self._log_probs[start:]),
            finish_reason=self.finish_reason,
            error=self.error,
            refused=self.refused,
        )


class Row(RequestState):  # type: ignore[misc]
    """The library's state of a request, for a `Job` in the batch."""

    def __init__(self, job: Job) -> None:
        super().__init__(
            request_id=str(job.request.key),
            initial_tokens=[*job.request.prompt_ids, *job.generated],
            max_new_tokens=None,  # the job decides when it ends
            streaming=job.request.stream,
        )
        self.job = job

    def update_and_check_completion(self, token_id: int, logprob: float | None) -> bool:
        super().update_and_check_completion(token_id, None)
        if not self.job.done:
            self.job.add(token_id)
        if self.job.done:
            self.status = RequestStatus.FINISHED
        return self.job.done

    def to_generation_output(self) -> Output:
        return self.request_id, self.job.new_chunk()

    def create_equivalent_initial_request(self) -> Row:
        """Called at eviction from the KV cache. The job continues in a new row, prefilled again."""
        return Row(self.job)


class RowProcessor(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Applies to each row the processing of its job; rows that need none are skipped."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 - declared so in the base class
    ignored_kwargs = ()

    def __init__(self) -> None:
        self._jobs: list[tuple[int, Job]] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """Remember the job of each row of the next scores; the device needs no data."""
        jobs = (request.state.job for request in requests_with_new_token)
        self._jobs = [(row, job) for row, job in enumerate(jobs) if not job.plain]
        return torch.empty(0, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """*scores* [rows, vocab], float32, changed in place."""
        self._follow_guides(scores)
        for row, job in self._jobs:
            before = scores[row : row + 1]
            with _failing(job):
                after = before if job.done else job.process(before)
                if after is not before:
                    before.copy_(after)
        return scores

    def _follow_guides(self, scores: torch.Tensor) -> None:
        """Exclude the tokens that the guides of all rows do not allow, in one operation."""
        guided = [(row, job, job.guide) for row, job in self._jobs if job.guide is not None]
        if not guided:
            return
        masks = np.full((len(scores), guided[0][2].words), -1, np.int32)
        for row, job, guide in guided:
            with _failing(job):
                if not guide.fill(masks[row], job.generated):
                    job.finish_reason = FinishReason.STOP
        excluded = np.unpackbits(
            ~masks.view(np.uint8), axis=1, count=scores.shape[1], bitorder="little"
        )
        scores.masked_fill_(torch.from_numpy(excluded.view(np.bool_)).to(scores.device), -torch.inf)


@contextlib.contextmanager
def _failing(job: Job) -> Iterator[None]:
    """An error ends *job* and no other one."""
    try:
        yield
    except RequestError as error:
        job.error, job.refused = str(error), True
    except Exception as error:
        logger.exception("request %d failed", job.request.key)
        job.error = f"choosing a token failed: {one_line(error)}"
