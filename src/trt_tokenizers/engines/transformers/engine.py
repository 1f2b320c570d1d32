"""The engine `transformers`, for laptops, CI and models that TensorRT-LLM does not support.

It runs transformers' continuous batching on a CPU or GPU: requests join and leave the batch at
every token. `sampling` chooses the tokens, `scheduler` connects to the library's scheduler, and
`parallel` runs the model over several ranks.
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
from trt_tokenizers.engines.sampling_params import check_guide
from trt_tokenizers.engines.transformers import loading
from trt_tokenizers.engines.transformers.guides import Guides
from trt_tokenizers.engines.transformers.settings import WHERE, TransformersSettings, checked
from trt_tokenizers.errors import EngineError, RequestError, one_line
from trt_tokenizers.mpi_environment import meeting_point, read_rank
from trt_tokenizers.streams.ensemble_inputs import supported_by

logger = logging.getLogger(__name__)

#: Upper limit of the KV cache on a CPU, unless kv_cache_tokens is set.
_CPU_CACHE_BYTES = 1 << 30
_STOP_SECONDS = 60.0


class TransformersEngine(Engine):
    """Generates with transformers' continuous batching, in one thread of this process.

    If MPI has started several ranks (`mpi_environment.read_rank`), tensor parallelism spans all of
    them. The generation thread emits all chunks; others compile guides. A token is sampled
    from softmax(scores). The scores are the model's after the guide, min_tokens, embedding bias,
    repetition_penalty (over prompt and generated tokens), presence_penalty and frequency_penalty
    (over generated tokens), bad words, temperature, top_k, top_p and min_p, in this order. A greedy
    request skips the last four and takes the highest score. A log-probability is that of the chosen
    token in softmax(scores).

    Raises:
        SettingsError: a setting cannot be used, or model_dir holds no model.
        EngineError: torch or transformers is missing or too old, or the model does not run.
    """

    settings_class = TransformersSettings
    supported = supported_by("transformers")

    @classmethod
    def check(cls, settings: Mapping[str, str]) -> None:
        checked(settings)

    def __init__(self, settings: Mapping[str, str]) -> None:
        s = checked(settings)
        rank = read_rank(os.environ)
        self.leads = rank.index == 0
        self._lock = threading.Lock()
        self._open: dict[str, Emit] = {}  # by request id
        self._ended: str | None = None  # why the engine accepts no more requests
        self._stopping = False
        self._group: Any = None  # a `parallel.Group` if there are several ranks
        self._compiling: set[int] = set()  # keys of requests whose guide is compiled
        if rank.size > 1:
            address = meeting_point(os.environ, rank)
        loading.import_libraries()
        device = loading.choose_device(s, rank)
        self.max_batch_size = s.batch_size(device)
        if rank.size > 1:
            from trt_tokenizers.engines.transformers.parallel import Group

            self._group = Group(rank, address, device)
        model = loading.load(s, rank, device)
        config = model.config.get_text_config()
        self._device = model.device
        self._vocab_size = int(config.vocab_size)
        self.max_seq_len = loading.max_sequence_length(s, config)
        if self._group is not None:
            self._group.wait_until_loaded()
        self._manager = self._make_manager(model, s)
        if self._capacity < self.max_seq_len:
            logger.warning("the KV cache limits max_seq_len to %d; raise kv_cache_tokens",
                           self._capacity)  # fmt: skip
            self.max_seq_len = self._capacity
        if self.leads:
            ends = model.generation_config.eos_token_id
            ends = ends if isinstance(ends, list) else [ends] if ends is not None else []
            self._guides = Guides(s.model_dir, self._vocab_size, ends)
        self._start()

    def _make_manager(self, model: Any, s: TransformersSettings) -> Any:
        """Make the library's manager with our extensions and its KV cache, but do not start it."""
        import transformers

        from trt_tokenizers.engines.transformers import scheduler
        from trt_tokenizers.engines.transformers.sampling import RowProcessor

        device = model.device.type
        batch_size, batch_tokens = s.batch_size(device), s.batch_tokens(device)
        gpu_fraction = s.kv_cache_free_gpu_mem_fraction if device == "cuda" else None
        tokens = s.kv_cache_tokens
        if not tokens and device == "cpu":
            fitting = scheduler.cached_tokens(model, _CPU_CACHE_BYTES, batch_tokens)
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
                    # RowProcessor runs Python code per row, which a CUDA graph cannot capture. It
                    # needs the tokens of each step before the next step.
                    use_cuda_graph=False,
                    use_async_batching=False,
                    auto_switch_to_flash=False,  # True searches the hub for kernels
                    scheduler_type=scheduler.SCHEDULER,
                ),
            )
            processor = self._group.processor(manager) if self._group else RowProcessor()
            manager.logit_processor.logits_processor.append(processor)
            manager.logit_processor.tensors_required += 1
            manager.logit_processor.do_processing = True
            manager.output_router = scheduler.Router(self._deliver, self._fail)
            manager.warmup()
        except Exception as error:
            raise EngineError(
                f"{WHERE}: continuous batching does not start for {s.model_dir}: "
                f"{one_line(error)}; if memory is short, set a smaller kv_cache_tokens"
            ) from error
        manager.batch_processor.scheduler.deliver = self._deliver
        # A sequence that exceeds the whole KV cache would end the generation loop.
        self._capacity = scheduler.longest_sequence(manager)
        if self._group is not None:
            self._group.prepare(manager)
        return manager

    def _start(self) -> None:
        """Start the generation thread. On the leader, wait for a first token to test the model."""
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
        """Run the generation loop. When it ends, send every open request its last chunk."""
        try:
            self._manager._run_generation_loop()
        finally:
            error = self._manager.background_thread_status.fatal_error
            cause = one_line(error) if error else "its thread ended"
            what = "all ranks" if self._group else "the server"
            with self._lock:
                self._ended = self._ended or f"{WHERE} has died: {cause}; restart {what}"
                if not self._stopping:
                    self.died = self._ended
            self._end_all()

    def follow(self) -> None:
        self._manager._generation_thread.join()
        if self._manager.background_thread_status.fatal_error is not None:
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
        # A loop that ends fails all requests. `_generate` then reports to them, after submit()
        # has begun to refuse new ones.
        if self._manager.background_thread_status.can_accept_new_requests() is None:
            self._deliver((request_id, Chunk(error=one_line(error))))

    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        from trt_tokenizers.engines.transformers.sampling import Job, Row

        self._check(request)
        if request.guide is not None:
            check_guide(*request.guide)
        row = Row(Job(request, self._device))
        with self._lock:
            if self._ended is not None:
                raise EngineError(self._ended)
            self._open[row.request_id] = emit
            if request.guide is None:
                self._enqueue(row)
            else:
                self._compiling.add(request.key)
                self._guides.submit(request, lambda: self._compile(row))

    def _enqueue(self, row: Any) -> None:
        self._manager.input_queue.put(row)
        self._manager._wake_up_loop.set()

    def _compile(self, row: Any) -> None:
        """Compile the guide of *row* and start it. Runs in a thread of `Guides`."""
        r: GenerationRequest = row.job.request
        if r.key not in self._compiling:  # cancelled
            return
        try:
            row.job.guide = self._guides.compile(r)
        except RequestError as error:
            self._deliver((row.request_id, Chunk(error=str(error), refused=True)))
        except BaseException as error:  # a panic of Rust is no Exception
            logger.exception("the guide of request %d failed", r.key)
            self._deliver((row.request_id, Chunk(error=f"compiling: {one_line(error)}")))
        with self._lock:
            if r.key in self._compiling and self._ended is None and row.job.guide is not None:
                self._enqueue(row)
            self._compiling.discard(r.key)

    def _check(self, r: GenerationRequest) -> None:
        """Refuse a request that would fail inside the loop, because that fails all other requests.

        Raises:
            RequestError: an id outside the vocabulary, an empty word, too long for the KV cache.
        """
        check_ids(r, self._vocab_size)
        if len(r.prompt_ids) + r.max_tokens > self._capacity:
            raise RequestError(
                f"max_tokens is {r.max_tokens} and the prompt has {len(r.prompt_ids)} tokens, but "
                f"the KV cache holds {self._capacity} in all; lower max_tokens, shorten the prompt "
                "or raise kv_cache_tokens of the server"
            )

    def cancel(self, key: int) -> None:
        with self._lock:
            compiling = key in self._compiling
            self._compiling.discard(key)
        if compiling:
            self._deliver((str(key), Chunk(finish_reason=FinishReason.CANCELLED)))
        else:
            self._manager.cancel_request(str(key))

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            self._ended = self._ended or f"{WHERE} has been stopped"
        self._manager._wake_up_loop.set()
        self._manager.stop(block=True, timeout=_STOP_SECONDS, hard_stop=True)
        self._end_all()
        if self._group is not None:
            self._group.part(self._manager)
        if self.leads:
            self._guides.stop()
        self._manager.model = None
