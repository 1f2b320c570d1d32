"""An engine that returns the prompt's ids, at a set rate: the answer is the prompt.

Tests and benchmarks use it when they need a known answer, and an engine faster than any server. It
has batched steps, streaming, cancellation and one emission per step, but no model.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from trt_tokenizers.engines.base import Chunk, Emit, Engine, FinishReason, GenerationRequest
from trt_tokenizers.settings import parse, setting


@dataclass(frozen=True)
class ReplaySettings:
    model_dir: str = setting("", "every engine gets it; this one does not read it")
    steps_per_second: float = setting(0.0, "steps of the batch per second; 0: no limit")
    delay_s: float = setting(0.0, "seconds until the first ids of an answer")
    chunk_sizes: tuple[int, ...] = setting((1,), "ids of one emission; the sizes repeat")
    fails_after: int = setting(0, "ids of an answer after which it fails; 0: never")
    max_seq_len: int = setting(65536, "tokens of prompt and answer")


class _Row:
    def __init__(self, request: GenerationRequest, emit: Emit, settings: ReplaySettings) -> None:
        self.request = request
        self.emit = emit
        self.start = time.monotonic() + settings.delay_s
        self.ids = request.prompt_ids[: request.max_tokens]
        self.at = 0
        self.sizes = itertools.cycle(settings.chunk_sizes)


class ReplayEngine(Engine):
    supported: ClassVar[frozenset[str]] = frozenset(
        {"max_tokens", "stream", "temperature", "top_k", "top_p", "seed", "random_seed",
         "min_tokens", "min_length", "repetition_penalty", "presence_penalty",
         "frequency_penalty", "return_log_probs"}
    )  # fmt: skip

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = parse(ReplaySettings, settings, "replay engine")
        self.max_seq_len = self._settings.max_seq_len
        self._rows: dict[int, _Row] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        with self._changed:
            self._rows[request.key] = _Row(request, emit, self._settings)
            self._changed.notify()

    def cancel(self, key: int) -> None:
        with self._changed:
            row = self._rows.pop(key, None)
        if row is not None:
            row.emit(Chunk(finish_reason=FinishReason.CANCELLED))

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()
        for key in list(self._rows):
            self.cancel(key)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._rows or self._stopped)
                if self._stopped:
                    return
                rows = list(self._rows.values())
            for row in rows:
                if time.monotonic() >= row.start:
                    self._step(row)
            if self._settings.steps_per_second:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._stopped, 1 / self._settings.steps_per_second
                    )
            else:
                time.sleep(0)  # lets the sender run

    def _step(self, row: _Row) -> None:
        if 0 < self._settings.fails_after <= row.at:
            with self._changed:
                self._rows.pop(row.request.key, None)
            row.emit(Chunk(error="this answer fails"))
            return
        size = next(row.sizes) if row.request.stream else len(row.ids)
        ids = row.ids[row.at : row.at + size]
        row.at += len(ids)
        last = row.at >= len(row.ids)
        if last:
            with self._changed:
                if self._rows.pop(row.request.key, None) is None:
                    return  # it was cancelled
        row.emit(
            Chunk(
                token_ids=ids,
                log_probs=(-1.0,) * len(ids) if row.request.return_log_probs else (),
                finish_reason=FinishReason.LENGTH if last else FinishReason.NOT_FINISHED,
            )
        )
