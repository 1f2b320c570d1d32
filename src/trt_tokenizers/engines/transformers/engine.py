"""The engine for laptops, CI and models that TensorRT-LLM lacks: transformers on a CPU or a GPU.

Runs transformers' continuous batching: requests join and leave the batch at every token. What a
request does inside it is in `_sampling`, what several ranks do together in `_parallel`.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Mapping
from typing import Any

from trt_tokenizers.engines.base import (
    Chunk,
    Emit,
    Engine,
    FinishReason,
    GenerationRequest,
    check_ids,
)
from trt_tokenizers.engines.transformers import loading
from trt_tokenizers.engines.transformers.settings import WHERE, TransformersSettings, checked
from trt_tokenizers.errors import EngineError, RequestError, one_line
from trt_tokenizers.mpi_environment import meeting_point, read_rank

logger = logging.getLogger(__name__)


#: The KV cache's share of a CPU's memory, at the most, unless kv_cache_tokens says otherwise.
_CPU_CACHE_BYTES = 1 << 30
_STOP_SECONDS = 60.0
#: After an error of this rank, for the news that it was another rank's end that has caused it.
_NEWS_SECONDS = 2.0
#: For the last responses and the last line, once another rank is gone. What waits for it inside
#: NCCL cannot be interrupted, so the process is ended then.
_LAST_SECONDS = 5.0


class TransformersEngine(Engine):
    """Generates with transformers' continuous batching, in a thread of this process; started as
    one of several MPI ranks, with tensor parallelism over all of them (`ranks.read_rank`).

    All chunks are emitted from that thread. A token is drawn from softmax(scores), where scores
    are the model's after repetition_penalty (over prompt and generated tokens), presence_penalty
    and frequency_penalty (over generated tokens), bad words, min_tokens, temperature, top_k and
    top_p, in this order. A greedy request takes the highest score, without the last three. A
    log-probability is that of the token in softmax(scores).

    Raises:
        SettingsError: a setting cannot be used, or model_dir holds no model.
        EngineError: torch or transformers is missing or too old, or the model does not run.
    """

    supported = frozenset({
        "max_tokens", "min_tokens", "min_length", "end_id", "pad_id", "stop_words", "bad_words",
        "temperature", "top_k", "top_p", "seed", "random_seed",
        "repetition_penalty", "presence_penalty", "frequency_penalty",
        "return_log_probs", "stream", "exclude_input_in_output", "embedding_bias_words",
    })  # fmt: skip

    @classmethod
    def check(cls, settings: Mapping[str, str]) -> None:
        checked(settings)

    def __init__(self, settings: Mapping[str, str]) -> None:
        s = checked(settings)
        rank = read_rank(os.environ)
        self.leads = rank.index == 0
        self._lock = threading.Lock()
        self._open: dict[str, Emit] = {}
        self._ended: str | None = None  # why no request is taken any more
        self._stopping = False
        self._loop_ended = threading.Event()
        self._group: Any = None  # of `_parallel`, if there are several ranks
        if rank.size > 1:
            loading.check_split(s, rank)
            address = meeting_point(os.environ, rank)
        self._inside = loading.import_inside()
        device = loading.choose_device(s, rank)
        try:
            if rank.size > 1:
                from trt_tokenizers.engines.transformers.parallel import Group

                self._group = Group(rank, address, device)
            model = loading.load(s, rank, device)
            config = model.config.get_text_config()
            self._device = model.device
            self._vocab_size = int(config.vocab_size)
            self.max_seq_len = loading.longest(s, config)
            if self._group is not None:
                self._group.all_loaded(self._lost)
            self._manager = self._make_manager(model, s)
            # A sequence that does not fit in the cache even alone would end the generation loop.
            self._capacity = self._inside.longest_sequence(self._manager)
            if self._capacity < self.max_seq_len:
                logger.warning("max_seq_len is only %d: raise kv_cache_tokens", self._capacity)
                self.max_seq_len = self._capacity
            self._start()
        except Exception as error:
            if self._group is None or not self._group.wait_for_news(_NEWS_SECONDS):
                raise
            raise EngineError(self._death(str(error))) from error

    def _make_manager(self, model: Any, s: TransformersSettings) -> Any:
        """The library's manager with our parts in it and its KV cache allocated, not started."""
        import transformers

        inside, device = self._inside, model.device.type
        batch_size, batch_tokens = s.batch_size(device), s.batch_tokens(device)
        gpu_fraction = s.kv_cache_free_gpu_mem_fraction if device == "cuda" else None
        tokens = s.kv_cache_tokens
        if not tokens and device == "cpu":
            fitting = inside.cached_tokens(model, _CPU_CACHE_BYTES, batch_tokens)
            tokens = max(1, min(fitting, batch_size * self.max_seq_len))
        try:
            manager = model.init_continuous_batching(
                generation_config=transformers.GenerationConfig(do_sample=False, eos_token_id=-1),
                continuous_batching_config=transformers.ContinuousBatchingConfig(
                    page_size=s.page_size,
                    num_blocks=-(-tokens // s.page_size) or None,
                    max_batch_tokens=batch_tokens,
                    max_requests_per_batch=batch_size,
                    max_memory_percent=gpu_fraction,
                    # Our processor is Python, row by row: no graph can hold it, and it needs each
                    # step's tokens before the next step.
                    use_cuda_graph=False,
                    use_async_batching=False,
                    auto_switch_to_flash=False,  # it would look for kernels on the hub
                    scheduler_type=inside.SCHEDULER,
                ),
            )
            processor = self._group.processor(manager) if self._group else inside.RowProcessor()
            manager.logit_processor.logits_processor.append(processor)
            manager.logit_processor.tensors_required += 1
            manager.logit_processor.do_processing = True
            manager.output_router = inside.Router(self._deliver, self._fail)
            manager.warmup()
        except Exception as error:
            raise EngineError(
                f"{WHERE}: continuous batching does not start for {s.model_dir}: "
                f"{one_line(error)}; if memory is short, set a smaller kv_cache_tokens"
            ) from error
        manager.batch_processor.scheduler.deliver = self._deliver
        if self._group is not None:
            self._group.prepare(manager)
        return manager

    def _start(self) -> None:
        """Start the generation thread; where requests are served, return when it has generated a
        token."""
        thread = threading.Thread(target=self._generate, name="transformers-engine", daemon=True)
        self._manager._generation_thread = thread
        thread.start()
        if not self.leads:
            return
        chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        self.submit(GenerationRequest(key=-1, prompt_ids=(0,), max_tokens=1), chunks.put)
        if (error := chunks.get().error) is not None:
            self.stop()
            raise EngineError(error)

    def _generate(self) -> None:
        """The generation thread. Whatever ends it, every open request gets its last chunk."""
        try:
            self._manager._run_generation_loop()
        finally:
            error = self._manager.background_thread_status.fatal_error
            cause = one_line(error) if error else "its thread ended"
            if self._group is not None and error is not None:
                self._group.wait_for_news(_NEWS_SECONDS)
            with self._lock:
                self._ended = self._ended or self._death(cause)
                if not self._stopping:
                    self.died = self._ended
            if self._group is not None and error is not None and self.died:
                self._exit_soon(self.died)
            self._end_all()
            self._loop_ended.set()

    def _death(self, cause: str) -> str:
        """The line about this engine's end; another rank's end explains any error of this one."""
        lost = self._group.lost if self._group is not None else None
        what = "all ranks" if self._group else "the server"
        return f"{WHERE} has died: {lost or cause}; restart {what}"

    def _lost(self, reason: str) -> None:
        """Another rank is gone, and with it the model."""
        with self._lock:
            if self._stopping:
                return
            self._ended = self.died = self._death(reason)
        self._exit_soon(self.died)
        self._end_all()
        self._loop_ended.set()

    def _exit_soon(self, reason: str) -> None:
        """End the process of this rank after `_LAST_SECONDS`, also if no request comes."""
        if self._group.stopping.is_set():
            return
        logger.error("%s", reason)
        ending = threading.Timer(_LAST_SECONDS, os._exit, [1])
        ending.daemon = True
        ending.start()

    def follow(self) -> None:
        self._loop_ended.wait()
        # The leader has said that it stops before its loop ended, but on another connection.
        self._group.wait_for_news(_NEWS_SECONDS)
        if not self._group.stopping.is_set():
            raise EngineError(self._ended)
        self.stop()

    def _end_all(self) -> None:
        last = Chunk(error=self._ended)
        if self._stopping:
            last = Chunk(finish_reason=FinishReason.CANCELLED)
        for request_id in list(self._open):
            self._deliver((request_id, last))

    def _deliver(self, output: tuple[str, Chunk]) -> None:
        request_id, chunk = output
        emit = self._open.pop(request_id, None) if chunk.last else self._open.get(request_id)
        if emit is not None:
            emit(chunk)

    def _fail(self, request_id: str, error: BaseException) -> None:
        # When the loop ends it fails all of them; `_generate` tells them, once none can be added.
        if self._manager.background_thread_status.can_accept_new_requests() is None:
            self._deliver((request_id, Chunk(error=one_line(error))))

    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        self._check(request)
        row = self._inside.Row(self._inside.Job(request, self._device))
        with self._lock:
            if self._ended is not None:
                raise EngineError(self._ended)
            self._open[row.request_id] = emit
            self._manager.input_queue.put(row)
            self._manager._wake_up_loop.set()

    def _check(self, r: GenerationRequest) -> None:
        """Refuse what would fail inside the loop and take the others along.

        Raises:
            RequestError: an id outside the vocabulary, an empty word, too long for the KV cache.
        """
        check_ids(r, self._vocab_size)
        if len(r.prompt_ids) + r.max_tokens > self._capacity:
            raise RequestError(
                f"max_tokens is {r.max_tokens} and the prompt has {len(r.prompt_ids)} tokens, but "
                f"the KV cache holds {self._capacity} in all; lower max_tokens, shorten the prompt "
                "or raise the server's kv_cache_tokens"
            )

    def cancel(self, key: int) -> None:
        self._manager.cancel_request(str(key))

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            self._ended = self._ended or f"{WHERE} has been stopped"
        if self._group is not None and self.leads:
            self._group.announce_stop()
        self._manager._wake_up_loop.set()
        self._manager.stop(block=True, timeout=_STOP_SECONDS, hard_stop=True)
        self._end_all()
        if self._group is not None:
            self._group.part(self._manager)
        self._manager.model = None
