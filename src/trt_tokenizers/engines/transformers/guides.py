"""Guides by llguidance: which tokens may follow.

llguidance is imported when an engine starts. `Guides` compiles guides in a thread of its own,
`Guide` is the state of one answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_tokenizers.engines.base import GenerationRequest
from trt_tokenizers.engines.sampling_params import guide_refusal
from trt_tokenizers.errors import RequestError, one_line

logger = logging.getLogger(__name__)

#: llguidance recurses into each rule; with 8 MiB a chain of 3,000 rules ends the process.
_STACK_BYTES = 512 << 20
#: CPU time of an answer, and for each of its tokens. Most tokens take less than 0.1 ms; in an
#: ambiguous grammar each takes longer than the last.
_ANSWER_S, _TOKEN_S = 0.5, 0.01
_LIMITS = {
    "max_grammar_size": 50_000,
    "max_lexer_states": 20_000,
    "step_max_items": 20_000,
    "verbose_errors": False,
}
#: Characters. The worst shorter guide found compiles in 0.3 s, the worst longer one in 3 s.
_SHORT = 4 << 10


class Guide:
    """Which tokens may follow in one answer.

    Attributes:
        words: length of a mask, which has one bit per token.
    """

    def __init__(self, matcher: Any, words: int, ends: Mapping[int, bool]) -> None:
        """Begin an answer.

        Args:
            matcher: llguidance's LLMatcher.
            ends: ids that may follow only where the guide is complete, and whether they may there.
        """
        self.words = words
        self._matcher = matcher
        self._ends = ends
        self._seen = 0  # tokens
        self._seconds = 0.0  # of CPU time

    def fill(self, mask: npt.NDArray[np.int32], generated: Sequence[int]) -> bool:
        """Write the mask of the token that follows *generated*.

        Args:
            mask: [words], little-endian; a set bit allows its token.
            generated: all tokens of the answer so far.

        Returns:
            Whether a token may follow; otherwise the answer is complete.

        Raises:
            RequestError: the guide is too complex.
        """
        begun = time.thread_time()
        matcher = self._matcher
        matcher.consume_tokens(list(generated[self._seen :]))
        self._seen = len(generated)
        if not matcher.is_stopped():
            matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._seconds += time.thread_time() - begun
        if matcher.is_error() or self._seconds > _ANSWER_S + _TOKEN_S * self._seen:
            why = " ".join(matcher.get_error().split())
            why = why or f"{self._seen} tokens took {self._seconds:.1f} s"
            raise RequestError(f"guided_decoding_guide is too complex: {why}; simplify it")
        complete = matcher.is_accepting()
        if matcher.is_stopped():
            if not complete:
                raise RequestError("guided_decoding_guide allows no answer; correct it")
            return False
        allowed = mask.view(np.uint8)
        for end_id, ends in self._ends.items():
            bit = np.uint8(1 << end_id % 8)
            allowed[end_id // 8] &= ~bit
            if complete and ends:
                allowed[end_id // 8] |= bit
        return True


class Guides:
    """Compiles guides for the tokenizer in a model folder.

    One thread compiles short guides one after another, another one the long ones. llguidance
    compiles without the GIL.
    """

    def __init__(self, model_dir: str, vocab_size: int, end_ids: Sequence[int]) -> None:
        """Start to load the tokenizer; return at once.

        Args:
            model_dir: has the tokenizer.
            vocab_size: tokens of the model.
            end_ids: the model's EOS ids; the tokenizer's if there are none.
        """
        self._tokenizer: Any = None
        self._problem = ""
        self._short, self._long = (ThreadPoolExecutor(1, "guides") for _ in range(2))
        before = threading.stack_size(_STACK_BYTES)
        try:
            loaded = self._short.submit(self._load, model_dir, vocab_size, end_ids)
            self._long.submit(loaded.result)
        finally:
            threading.stack_size(before)

    def _load(self, model_dir: str, vocab_size: int, end_ids: Sequence[int]) -> None:
        try:
            import llguidance.hf
            import transformers

            tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
            self._tokenizer = llguidance.hf.from_tokenizer(
                tokenizer, max(vocab_size, len(tokenizer)), list(end_ids) or None
            )
        except ImportError as error:
            self._problem = f"{error}; pip install 'trt-tokenizers[engine]'"
        except Exception as error:
            self._problem = f"the tokenizer in {model_dir} does not load: {one_line(error)}"
        if self._problem:
            logger.info("no guides: %s", self._problem)

    def submit(self, request: GenerationRequest, begin: Callable[[], None]) -> None:
        """Call *begin*, which may `compile` the guide of *request*, in a thread of this object."""
        assert request.guide is not None
        thread = self._short if len(request.guide[1]) <= _SHORT else self._long
        thread.submit(begin)

    def compile(self, request: GenerationRequest) -> Guide:
        """The state of the guide of *request*. Its end ids may follow where the guide is complete.

        Raises:
            RequestError: the guide does not compile, or there is no tokenizer.
        """
        assert request.guide is not None
        kind, guide = request.guide
        if self._problem:
            raise RequestError(f"this server cannot follow guides: {self._problem}")
        from llguidance import LLMatcher, LLParserLimits

        from trt_tokenizers.engines.transformers.grammars import grammar

        try:
            text = grammar(kind, guide, self._tokenizer)
            limits = LLParserLimits(**_LIMITS)
            matcher = LLMatcher(self._tokenizer, text, log_level=0, limits=limits)
            problem = matcher.get_error()
        except ValueError as error:
            problem = str(error)
        if problem:
            raise guide_refusal(kind, problem)
        # The model's EOS ids are in end_ids and stop_words, unless the client excludes them.
        eos = self._tokenizer.eos_tokens
        known = request.end_ids | {word[0] for word in request.stop_words if len(word) == 1}
        ends = {end_id: end_id in known for end_id in request.end_ids.union(eos)}
        return Guide(matcher, -(-self._tokenizer.vocab_size // 32), ends)

    def stop(self) -> None:
        """Compile no more."""
        for thread in (self._short, self._long):
            thread.shutdown(wait=False, cancel_futures=True)
