"""Replaces the runtime: a small model generates the tokens on this CPU.

Only rank 0 computes. The other ranks run a task of its MPI session until it stops, like the real
workers.
"""

from __future__ import annotations

import datetime
import itertools
import os
import queue
import time
from types import SimpleNamespace
from typing import Any

from tensorrt_llm.executor.result import GenerationResult, Step
from tensorrt_llm.executor.utils import RequestError
from trt_tokenizers.engines.base import Chunk, FinishReason, GenerationRequest
from trt_tokenizers.engines.transformers.engine import TransformersEngine
from trt_tokenizers.errors import RequestError as Refused

_STOP_TAG = 1171
_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "cancelled",
}


def worker_main() -> None:
    """The task of one rank."""
    from mpi4py.MPI import COMM_WORLD

    if COMM_WORLD.Get_rank() == 0:
        return
    while not COMM_WORLD.iprobe(source=0, tag=_STOP_TAG):
        time.sleep(0.02)
    COMM_WORLD.recv(source=0, tag=_STOP_TAG)


class Executor:
    def __init__(self, args: Any, session: Any) -> None:
        world = args.tensor_parallel_size * args.pipeline_parallel_size
        if session is not None and session.n_workers != world:
            raise ValueError(
                f"External MPI session has {session.n_workers} workers but the model needs "
                f"world_size={world}."
            )
        self._args = args
        self._ids = itertools.count(2)
        self._results: dict[int, GenerationResult] = {}
        self._down = False
        #: Errors of workers and threads; the next submit() raises them.
        self._error_queue: queue.Queue[Exception] = queue.Queue()
        self._workers = session.submit(worker_main) if session is not None else []
        # Otherwise TransformersEngine would split its model over these ranks.
        hidden = {name: os.environ.pop(name) for name in list(os.environ) if "OMPI_COMM" in name}
        settings = {"model_dir": args.model, "device": "cpu"}
        if args.max_seq_len:
            settings["max_seq_len"] = str(args.max_seq_len)
        if args.kv_cache_config.max_tokens:
            settings["kv_cache_tokens"] = str(args.kv_cache_config.max_tokens)
        try:
            self._engine = TransformersEngine(settings)
        except Exception as error:
            self._release()
            raise RuntimeError(f"Executor worker returned error: {error}") from error
        finally:
            os.environ.update(hidden)

    def next_id(self) -> int:
        return next(self._ids)

    def is_shutdown(self) -> bool:
        return self._down

    def submit(self, result: GenerationResult, p: Any, lora_request: Any, streaming: bool) -> None:
        if lora_request is not None and self._args.lora_config is None:
            raise RequestError("LoRA is not enabled: lora_config is None")
        if p.guided_decoding is not None and self._args.guided_decoding_backend is None:
            raise RequestError("guided decoding is not enabled: guided_decoding_backend is None")
        arrived, first = time.monotonic(), 0.0
        self._results[result.request_id] = result

        def emit(chunk: Chunk) -> None:
            nonlocal first
            first = first or time.monotonic()
            perf = _perf(arrived, first) if p.return_perf_metrics and chunk.last else None
            if chunk.last:
                self._results.pop(result.request_id, None)
            result._put(
                Step(
                    token_ids=list(chunk.token_ids),
                    logprobs=list(chunk.log_probs),
                    finish_reason=_REASONS.get(chunk.finish_reason),
                    perf=perf,
                    error=chunk.error,
                )
            )

        try:
            self._engine.submit(_request(result, p, streaming), emit)
        except Refused as error:  # in the real one a worker finds the error and responds with it
            emit(Chunk(error=str(error)))

    def abort_request(self, request_id: int) -> None:
        self._engine.cancel(request_id)

    def fail(self, error: Exception) -> None:
        """For tests: fail all requests, as if the workers had died."""
        for result in list(self._results.values()):
            result._put(Step(error=error))
        self._down = True

    def handle_background_error(self, error: str | Exception) -> None:
        if isinstance(error, str):
            raise RequestError(error)
        self.shutdown()
        raise error

    def _release(self) -> None:
        if self._workers:
            from mpi4py.MPI import COMM_WORLD

            for rank in range(1, COMM_WORLD.Get_size()):
                COMM_WORLD.send(None, dest=rank, tag=_STOP_TAG)
            for worker in self._workers:
                worker.result()
            self._workers = []

    def shutdown(self) -> None:
        self._down = True
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.stop()
            self._release()


def _request(result: GenerationResult, p: Any, streaming: bool) -> GenerationRequest:
    """Convert SamplingParams to the request of TransformersEngine with the same meaning."""
    greedy = p.temperature is None and p._greedy_decoding
    greedy = greedy or p.temperature == 0 or p.top_k == 1 or p.top_p == 0
    return GenerationRequest(
        key=result.request_id,
        prompt_ids=tuple(result.prompt_token_ids),
        max_tokens=p.max_tokens,
        stream=streaming,
        end_ids=frozenset() if p.ignore_eos or p.end_id < 0 else frozenset((p.end_id,)),
        stop_words=() if p.ignore_eos else tuple(map(tuple, p._get_stop_words())),
        bad_words=tuple(map(tuple, p._get_bad_words())),
        embedding_bias=None if p.embedding_bias is None else p.embedding_bias.numpy(),
        temperature=0.0 if greedy else 1.0 if p.temperature is None else p.temperature,
        top_k=0 if greedy else p.top_k or 0,
        top_p=1.0 if greedy or not p.top_p else p.top_p,
        min_p=p.min_p or 0.0,
        repetition_penalty=1.0 if p.repetition_penalty is None else p.repetition_penalty,
        presence_penalty=p.presence_penalty or 0.0,
        frequency_penalty=p.frequency_penalty or 0.0,
        min_tokens=1 if p.min_tokens is None else p.min_tokens,
        seed=p.seed or 0,
        return_log_probs=bool(p.logprobs),
        given=frozenset() if greedy else frozenset(("temperature",)),
    )


def _perf(arrived: float, first: float) -> Any:
    def since(seconds: float) -> datetime.timedelta:
        return datetime.timedelta(seconds=seconds)

    return SimpleNamespace(
        timing_metrics=SimpleNamespace(
            arrival_time=since(arrived),
            first_scheduled_time=since(arrived),
            first_token_time=since(first),
            last_token_time=since(time.monotonic()),
        ),
        kv_cache_metrics=SimpleNamespace(
            num_total_allocated_blocks=1, num_new_allocated_blocks=1, num_reused_blocks=0
        ),
        speculative_decoding=SimpleNamespace(
            acceptance_rate=0.0, total_accepted_draft_tokens=0, total_draft_tokens=0
        ),
    )
