"""The ensemble in this process, without Triton: the same text as a server's for the same request.

    from trt_tokenizers import Pipeline

    with Pipeline.from_model("./SmolLM2-135M-Instruct") as pipeline:
        answer = pipeline.generate("Once upon a time", max_tokens=32)
        print(answer.text)

Requests have the ensemble's inputs as keyword arguments. The methods may be called from several
threads; the engine serves all requests at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import queue
import threading
import weakref
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import Any, TypeAlias

from trt_tokenizers.errors import EngineError, RequestError, SettingsError
from trt_tokenizers.mpi_environment import read_rank
from trt_tokenizers.processing.answer import Answer, whole_answer
from trt_tokenizers.repository.generate import GenerateOptions, render
from trt_tokenizers.repository.in_process import InProcessEnsemble, Item, Put
from trt_tokenizers.repository.tensorrtllm_backend import CPP_BACKEND
from trt_tokenizers.repository.wiring import Wiring
from trt_tokenizers.settings import as_text

__all__ = ["Answer", "Pipeline", "Prompt"]

#: A text, chat messages, or a whole request: an object of the ensemble's inputs.
Prompt: TypeAlias = "str | Sequence[Mapping[str, Any]] | Mapping[str, Any]"

#: Requests that `Pipeline.as_completed` starts ahead, if the engine's batch size is unknown.
_AHEAD = 512


class Pipeline:
    """Preprocessing, an engine and postprocessing, loaded in this process.

    Make it with `from_model` or `from_repository`. It is a context manager; `close` frees the
    engine's memory. An error of a request is one of `trt_tokenizers.errors`, as a server reports
    it: RequestError if the request must change.
    """

    def __init__(self, wiring: Wiring) -> None:
        """Load the ensemble of *wiring*."""
        if wiring.backend != "python":
            raise _cpp_backend()
        if (rank := read_rank(os.environ)).size > 1:
            raise SettingsError(
                f"{rank.source} give {rank.size} ranks, and a pipeline is one process; start it "
                "without MPI, or serve the model with launch_server --world-size"
            )
        self._ensemble = ensemble = InProcessEnsemble(wiring)
        self._closing = weakref.finalize(self, _close_unused, ensemble)

    @classmethod
    def from_repository(cls, repository: str | Path) -> Pipeline:
        """The ensemble of a model repository that `trt-tokenizers generate` made.

        Raises:
            RepositoryError: a config.pbtxt is missing or wrong.
            SettingsError, TokenizerError, TemplateError, EngineError: a model does not load.
        """
        return cls(Wiring.of_repository(Path(repository).absolute()))

    @classmethod
    def from_model(
        cls,
        model_dir: str | Path,
        *,
        engine: str = "transformers",
        tokenizer_dir: str | Path | None = None,
        tokenizer_type: str = "auto",
        template: str = "auto",
        engine_parameters: Mapping[str, str] | None = None,
        llm_args: Mapping[str, Any] | None = None,
        engine_args: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Pipeline:
        """The ensemble that `trt-tokenizers generate` would make for a model.

        Args:
            model_dir: a Hugging Face folder; for llmapi and vllm also a name on the hub.
            engine: transformers, vllm, llmapi, the name of another package's, or module:Class.
            tokenizer_dir: the tokenizer's folder; None: *model_dir*.
            tokenizer_type, template: as the options of ``generate``.
            engine_parameters: parameters of another package's engine.
            llm_args: for llmapi: arguments of ``LLM()``.
            engine_args: for vllm: fields of ``AsyncEngineArgs``.
            settings: any other setting, as ``generate --set``: ``dtype="bfloat16"``.

        Raises:
            RepositoryError: there is no such model or setting.
            SettingsError, TokenizerError, TemplateError, EngineError: a model does not load.
        """
        if engine == CPP_BACKEND:
            raise _cpp_backend()
        options = GenerateOptions(
            engine,
            model_dir=Path(model_dir),
            tokenizer_dir=Path(tokenizer_dir) if tokenizer_dir else None,
            tokenizer_type=tokenizer_type,
            template=template,
            values={name: as_text(value) for name, value in settings.items()},
            engine_parameters=engine_parameters or {},
            llm_args=llm_args or {},
            engine_args=engine_args or {},
        )
        return cls(Wiring.of_files(render(options)))

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all requests as cancelled, and the engine. A second call does nothing."""
        if self._closing.detach():
            self._ensemble.close()

    def generate(self, prompt: Prompt, /, **parameters: Any) -> Answer:
        """The whole answer to one request. An exception here, as of Ctrl-C, cancels it.

        Args:
            prompt: a text, messages, or an object of the ensemble's inputs.
            parameters: other inputs of the ensemble, such as ``max_tokens=32``.

        Raises:
            RequestError: the request is wrong.
            EngineError: the engine failed, or the pipeline is closed.
        """
        ((_, answer),) = self.as_completed([prompt], **parameters)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def generate_batch(
        self, prompts: Iterable[Prompt], /, **parameters: Any
    ) -> list[Answer | Exception]:
        """The answers to many requests, in their order; the engine serves them together.

        A request that fails has its error in the place of its answer. Arguments and exceptions are
        those of `as_completed`.
        """
        answers = dict(self.as_completed(prompts, **parameters))
        return [answers[at] for at in sorted(answers)]

    def as_completed(
        self, prompts: Iterable[Prompt], /, **parameters: Any
    ) -> Generator[tuple[int, Answer | Exception], None, None]:
        """The answers to any number of requests, each with its index, as they are completed.

        It reads *prompts* only as far ahead as keeps the engine busy. Closing the iterator cancels
        the requests that run.

        Args:
            prompts: as of `generate`; the inputs of an object win over *parameters*.

        Raises:
            EngineError: the engine has died, or the pipeline is closed.
        """
        ahead = 2 * self._ensemble.max_batch_size or _AHEAD
        items: queue.SimpleQueue[tuple[int, Item]] = queue.SimpleQueue()
        numbered = enumerate(prompts)
        running: dict[int, tuple[Callable[[], None], list[Answer]]] = {}

        def put(index: int, item: Item) -> None:
            items.put((index, item))

        try:
            while True:
                for index, prompt in itertools.islice(numbered, ahead - len(running)):
                    cancel = self._start(prompt, parameters, functools.partial(put, index))
                    running[index] = cancel, []
                if not running:
                    return
                index, item = items.get()
                if isinstance(item, Answer):
                    running[index][1].append(item)
                    continue
                _, parts = running.pop(index)
                if item is not None and (died := self._ensemble.died) is not None:
                    raise EngineError(died)
                yield index, whole_answer(parts) if item is None else item
        finally:
            for cancel, _ in running.values():
                cancel()

    def stream(self, prompt: Prompt, /, **parameters: Any) -> Generator[Answer, None, None]:
        """The parts of an answer as they are generated; the last one has a finish reason.

        The request starts with the first part that is asked for. Closing the iterator, or dropping
        it, cancels the request. Arguments and exceptions are those of `generate`.
        """
        items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        cancel = self._start(prompt, parameters, items.put, stream=True)
        try:
            while (item := items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            cancel()

    async def stream_async(
        self, prompt: Prompt, /, **parameters: Any
    ) -> AsyncGenerator[Answer, None]:
        """As `stream`, for asyncio. Cancelling the task cancels the request.

        To end a loop over it early, close it: ``async with contextlib.aclosing(...)``.
        """
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Item] = asyncio.Queue()

        def put(item: Item) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(items.put_nowait, item)

        cancel = self._start(prompt, parameters, put, stream=True)
        try:
            while (item := await items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            cancel()

    def _start(
        self, prompt: Prompt, parameters: Mapping[str, Any], put: Put, *, stream: bool = False
    ) -> Callable[[], None]:
        """Start a request whose items go to *put*; returns what cancels it.

        Raises:
            EngineError: the pipeline is closed.
        """
        try:
            inputs = _inputs(prompt, parameters, stream=stream)
        except RequestError as error:
            put(error)
            return lambda: None
        return self._ensemble.start(inputs, put).cancel


def _close_unused(ensemble: InProcessEnsemble) -> None:
    """Close the ensemble of a pipeline that is garbage, or open when the interpreter ends.

    Garbage is collected in any thread, also in those of the engine, which `close` waits for.
    """
    if threading.current_thread() is threading.main_thread():
        ensemble.close()
    else:
        threading.Thread(target=ensemble.close, name="pipeline-close").start()


def _cpp_backend() -> SettingsError:
    return SettingsError(
        f"the engine {CPP_BACKEND} (C++) runs only inside tritonserver; serve it with "
        "launch_server and ask it with trt-tokenizers chat or trt_tokenizers.generate, or give "
        "the model's folder and the engine llmapi, vllm or transformers"
    )


def _inputs(prompt: Prompt, parameters: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """The ensemble's inputs of a request."""
    own: Mapping[str, Any]
    if isinstance(prompt, Mapping):
        own = prompt
    elif isinstance(prompt, str):
        own = {"text_input": prompt}
    elif isinstance(prompt, Sequence) and all(isinstance(each, Mapping) for each in prompt):
        own = {"messages": prompt}
    else:
        raise RequestError(
            f"the prompt is {prompt!r:.60}; give a text, a list of messages or an object of "
            "inputs, and several prompts to generate_batch"
        )
    inputs = {name: each for name, each in {**parameters, **own}.items() if each is not None}
    # Several answers need a stream; `as_completed` joins its parts.
    inputs["stream"] = stream or inputs.get("num_return_sequences", 1) != 1
    return inputs
