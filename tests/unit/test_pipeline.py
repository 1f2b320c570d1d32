"""The ensemble in one process: the same answers as through Triton's models, and its own ends."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import gc
import inspect
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import replay
from harness import generate_replay
from in_process import Client, InProcessTriton
from launching import until
from texts import HARD_TEXTS
from trt_tokenizers import Answer, Pipeline, backend
from trt_tokenizers.engines.base import Chunk
from trt_tokenizers.errors import EngineError, RepositoryError, RequestError, SettingsError
from trt_tokenizers.processing.answer import whole_answer
from trt_tokenizers.repository.generate import GenerateOptions, render
from trt_tokenizers.settings import as_text
from trt_tokenizers.streams.stream_folder import open_streams

TEXT = "".join(HARD_TEXTS)
USER = [{"role": "user", "content": "안녕 👋🏽 <|im_end|>"}]
ENDLESS = {"text_input": "word " * 2000, "max_tokens": 8000}
#: The engine of these tests takes time for a stream only, as several answers are.
SLOW = {**ENDLESS, "num_return_sequences": 2}


@pytest.fixture(scope="module")
def repository(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its engine sends 1 to 7 ids at once, one emission a response."""
    folder = tmp_path_factory.mktemp("pipeline")
    sizes = ("--engine-parameter", "chunk_sizes=1,3,2,7", "--set", "max_tokens_per_chunk=1")
    pace = ("--engine-parameter", "steps_per_second=1000")
    return generate_replay(folder / "repo", bpe_dir, *sizes, *pace)


@pytest.fixture(scope="module")
def pipeline(repository: Path) -> Iterator[Pipeline]:
    with Pipeline.from_repository(repository) as pipeline:
        yield pipeline


@pytest.fixture
def triton(repository: Path) -> Iterator[InProcessTriton]:
    triton = InProcessTriton(repository, backend.EngineModel)
    yield triton
    triton.finalize()
    gc.unfreeze()  # finalize() expects the process to end


def running(pipeline: Pipeline) -> int:
    return pipeline._ensemble._dispatcher.running


def contexts(pipeline: Pipeline) -> int:
    return len([*open_streams(pipeline._ensemble._contexts.directory)])


BODIES: list[dict[str, Any]] = [
    {"text_input": TEXT, "max_tokens": 2000},
    {"text_input": TEXT, "max_tokens": 33, "return_log_probs": True},
    {"text_input": "one two three four", "max_tokens": 99, "stop_words": ["wo th"]},
    {"text_input": "one two three", "max_tokens": 99, "stop_words": ["wo th", "x"],
     "include_stop_str_in_output": True},
    {"messages": USER, "max_tokens": 50, "return_token_ids": True},
    {"messages": USER, "max_tokens": 50, "skip_special_tokens": False, "return_added_tokens": True,
     "return_log_probs": True},
    {"messages": USER, "chat_template_kwargs": {"add_generation_prompt": False}},
    {"text_input": "echo", "max_tokens": 3, "exclude_input_in_output": False},
    {"text_input": "a <|im_end|> b", "max_tokens": 20},
    {"text_input": "a <|im_end|> b", "max_tokens": 20, "end_id": -1, "min_tokens": 5},
]  # fmt: skip


def outputs(client: Client) -> dict[str, Any]:
    """What the client received, as `Answer.outputs` of the whole."""
    assert client.error is None
    found: dict[str, Any] = {"text_output": client.text}
    shift = 0
    for chunk in client.chunks:
        for name in ("finish_reason", "num_input_tokens", "num_output_tokens", "prompt_end"):
            if name in chunk and name not in found:
                value = chunk[name].item()
                found[name] = value.decode() if isinstance(value, bytes) else value
        for name in ("output_log_probs", "output_tokens"):
            if name in chunk and chunk[name].any():
                values = chunk[name].ravel().tolist()
                found.setdefault(name, []).extend(
                    v.decode(errors="replace") if isinstance(v, bytes) else v for v in values
                )
        if "token_ids" in chunk:
            ids = [each for each in chunk["token_ids"].ravel().tolist() if each >= 0]
            found.setdefault("token_ids", []).extend(ids)
        if "added_tokens" in chunk:
            flat = [each for each in chunk["added_tokens"].ravel().tolist() if each >= 0]
            flat = [place + shift * (at % 3 < 2) for at, place in enumerate(flat)]
            found.setdefault("added_tokens", []).extend(flat)
        if "cum_log_probs" in chunk and "output_log_probs" in found:
            found["cum_log_probs"] = chunk["cum_log_probs"].item()
        shift += len(chunk["text_output"].item().decode())
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_answers_equal_those_of_the_models_in_triton(
    triton: InProcessTriton, pipeline: Pipeline, stream: bool
) -> None:
    asked = [Client({**body, "stream": stream}) for body in BODIES]
    triton.run(*asked)
    for client, body in zip(asked, BODIES, strict=True):
        parts = list(pipeline.stream(body)) if stream else [pipeline.generate(body)]
        assert not any(part.finish_reason for part in parts[:-1])
        assert whole_answer(parts).outputs() == outputs(client)
    assert contexts(pipeline) == 0


BAD: list[dict[str, Any]] = [
    {"text_input": ""},
    {"text_input": "x", "max_tokens": 0},
    {"text_input": "x", "max_token": 5},
    {"text_input": "x", "beam_width": 2},
    {"text_input": "x", "messages": USER},
    {"text_input": "x", "temperature": -1.0},
    {"text_input": "x", "top_p": 0.5, "lora_name": "none"},
    {"messages": "no JSON"},
]


@pytest.mark.parametrize("body", BAD, ids=str)
def test_errors_equal_those_of_the_models_in_triton(
    triton: InProcessTriton, pipeline: Pipeline, body: dict[str, Any]
) -> None:
    if "max_token" in body:
        expected = "unknown parameter 'max_token' (did you mean 'max_tokens'?)"
    else:
        triton.run(client := Client(dict(body)))
        expected = client.error.message()
    with pytest.raises(RequestError) as caught:
        pipeline.generate(body)
    assert str(caught.value).startswith(expected)
    assert contexts(pipeline) == 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": "hot"}, "temperature is 'hot'; it must be a number"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5; it must be a whole number from -2147483648 to"),
        ({"seed": -1}, "seed is -1; it must be a whole number from 0 to 18446744073709551615"),
        ({"return_log_probs": 1}, "return_log_probs is 1; it must be true or false"),
        ({"max_tokens": True}, "max_tokens is True; it must be a whole number"),
        ({"stop_words": ["a", 1]}, "stop_words is 1; it must be a string"),
        ({"text_input": ["a", "b"]}, "text_input has the shape [1, 2]; send one value per row"),
        ({"text_input": "a\udcff"}, "text_input is not valid UTF-8"),
        ({"text_input": None}, "the prompt is empty; send text_input or messages"),
        ({"temperature": 1e300}, "temperature is inf; it must be between 0 and 100"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(
    pipeline: Pipeline, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        pipeline.generate({"text_input": "x", **parameters})
    assert str(caught.value).startswith(message)


def test_a_text_or_messages_with_keyword_parameters(pipeline: Pipeline) -> None:
    answer = pipeline.generate("hello world", max_tokens=99, seed=None)
    assert (answer.text, answer.finish_reason) == ("hello world", "length")
    assert answer.num_input_tokens == answer.num_output_tokens == len(answer.token_ids)
    template = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    messages = [{"role": "user", "content": "hi"}]
    asked = {"skip_special_tokens": False, "end_id": -1, "max_tokens": 99}
    assert pipeline.generate(messages, **asked).text == template


def test_several_answers_to_a_prompt(pipeline: Pipeline) -> None:
    first = pipeline.generate(
        TEXT, max_tokens=99, num_return_sequences=3, return_log_probs=True,
        return_added_tokens=True, skip_special_tokens=False,
    )  # fmt: skip
    assert [first.sequence, *(other.sequence for other in first.others)] == [0, 1, 2]
    alone = pipeline.generate(TEXT, max_tokens=99, return_log_probs=True,
                              return_added_tokens=True, skip_special_tokens=False)  # fmt: skip
    for answer in (first, *first.others):
        assert {**answer.outputs(), "sequence_index": 0, "others": 0} == {
            **alone.outputs(), "sequence_index": 0, "others": 0,
        }  # fmt: skip
    parts = list(pipeline.stream("one two three", max_tokens=9, num_return_sequences=2))
    for number in (0, 1):
        assert "".join(p.text for p in parts if p.sequence == number) == "one two three"


def test_a_batch_keeps_its_order_and_its_errors_apart(pipeline: Pipeline) -> None:
    prompts: list[Any] = [f"{n} {TEXT[: n * 7]}" for n in range(100)]
    prompts[3] = ""
    prompts[50] = {"text_input": "x", "max_tokens": 0}
    prompts[70] = {"text_input": "only three", "max_tokens": 3}
    answers = pipeline.generate_batch(prompts, max_tokens=2000)
    assert len(answers) == 100
    for at, answer in enumerate(answers):
        if at in (3, 50):
            assert isinstance(answer, RequestError)
        else:
            assert isinstance(answer, Answer)
            assert at == 70 or answer.text == prompts[at]
    assert isinstance(answers[70], Answer)
    assert answers[70].num_output_tokens == 3
    assert pipeline.generate_batch([]) == []
    mistakes: list[Any] = [["a", "b"], b"bytes", None, 7, "right"]
    *wrong, right = pipeline.generate_batch(mistakes, max_tokens=9)
    assert isinstance(right, Answer)
    for mistake, error in zip(mistakes, wrong, strict=False):
        assert isinstance(error, RequestError)
        assert str(error).startswith(f"the prompt is {mistake!r}; give a text")
    assert contexts(pipeline) == 0


def test_a_batch_is_read_only_as_far_as_needed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay.ReplayEngine, "max_batch_size", 2)
    taken = []

    def prompts() -> Iterator[str]:
        for n in range(50):
            taken.append(n)
            yield f"{n}"

    answers = pipeline.as_completed(prompts(), max_tokens=9)
    first = next(answers)
    assert isinstance(first[1], Answer)
    assert first[1].text == f"{first[0]}"
    assert len(taken) == 4
    assert sorted([first[0], *(index for index, _ in answers)]) == list(range(50))


def test_leaving_a_stream_or_a_batch_cancels(pipeline: Pipeline) -> None:
    stream = pipeline.stream(ENDLESS)
    next(stream)
    assert running(pipeline) == 1
    stream.close()
    until(lambda: running(pipeline) == contexts(pipeline) == 0, 3)
    next(pipeline.stream(ENDLESS))  # dropped
    until(lambda: running(pipeline) == contexts(pipeline) == 0, 3)
    answers = pipeline.as_completed([SLOW, "short", SLOW], max_tokens=5)
    assert next(answers)[0] == 1
    answers.close()
    until(lambda: running(pipeline) == contexts(pipeline) == 0, 3)


def test_ctrl_c_cancels_the_request(pipeline: Pipeline) -> None:
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pipeline.generate(SLOW)
    assert time.monotonic() - started < 5  # the answer takes 8 s
    until(lambda: running(pipeline) == contexts(pipeline) == 0, 3)


def test_a_stop_string_cancels_the_engine(pipeline: Pipeline) -> None:
    """It does not end at a token's end, so the engine's own stop words do not match."""
    parts = list(pipeline.stream({**ENDLESS, "stop_words": ["rd wor"]}))
    assert "".join(part.text for part in parts) == "wo"
    assert [part.finish_reason for part in parts if part.finish_reason] == ["stop"]
    until(lambda: running(pipeline) == contexts(pipeline) == 0, 3)


def test_asyncio(pipeline: Pipeline) -> None:
    async def text(number: int) -> str:
        prompt = f"{number} {TEXT}"
        return "".join([p.text async for p in pipeline.stream_async(prompt, max_tokens=2000)])

    async def cancelled() -> None:
        async for _ in pipeline.stream_async(ENDLESS):
            started.set()

    async def bad() -> None:
        async for _ in pipeline.stream_async(""):
            pass

    async def main() -> list[str]:
        task = asyncio.create_task(cancelled())
        texts = await asyncio.gather(*(text(number) for number in range(5)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(RequestError, match="the prompt is empty"):
            await bad()
        return texts

    started = asyncio.Event()
    assert asyncio.run(main()) == [f"{number} {TEXT}" for number in range(5)]
    until(lambda: running(pipeline) == contexts(pipeline) == 0, 3)


def test_an_error_of_the_engine_ends_its_request_only(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = replay.ReplayEngine.submit

    def fail_short(self: Any, request: Any, emit: Any) -> None:
        if len(request.prompt_ids) < 3:
            emit(Chunk(token_ids=request.prompt_ids[:1]))
            emit(Chunk(error="out of memory"))
        else:
            submit(self, request, emit)

    monkeypatch.setattr(replay.ReplayEngine, "submit", fail_short)
    bad, good = pipeline.generate_batch(["x", TEXT], max_tokens=2000)
    assert isinstance(bad, EngineError)
    assert str(bad) == "out of memory"
    assert isinstance(good, Answer)
    assert good.text == TEXT
    assert contexts(pipeline) == 0


class Panic(BaseException):
    """As pyo3's PanicException: no `Exception`."""


def test_a_panic_of_the_tokenizer_ends_its_request_only(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(**more: bool) -> Any:
        raise Panic("decode")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline._ensemble._postprocessor.tokenizer, "stream", stream)
        with pytest.raises(Exception, match="the tokenizer failed on this request: Panic: decode"):
            pipeline.generate("word", max_tokens=1)
        # Each response of several answers fails, before and after the end of the request.
        failed = pipeline.generate_batch(["one two three"] * 20, num_return_sequences=2)
        assert {str(each).rpartition(": ")[2] for each in failed} == {"decode"}
    until(lambda: running(pipeline) == contexts(pipeline) == 0, 3)
    assert pipeline.generate("word", max_tokens=9).text == "word"


def test_a_dead_engine_ends_a_batch(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a long batch would get the same error for each further request."""

    def die(self: Any, request: Any, emit: Any) -> None:
        self.died = "the engine has died: out of memory"
        emit(Chunk(error=self.died))

    with Pipeline.from_repository(repository) as pipeline:
        monkeypatch.setattr(replay.ReplayEngine, "submit", die)
        with pytest.raises(EngineError, match="the engine has died: out of memory"):
            list(pipeline.as_completed(["a", "b"], max_tokens=1))
        until(lambda: running(pipeline) == contexts(pipeline) == 0, 3)


def test_closing_ends_requests_and_refuses_new_ones(repository: Path) -> None:
    pipeline = Pipeline.from_repository(repository)
    stream = pipeline.stream(ENDLESS)
    parts = [next(stream)]
    batch: list[Any] = []
    thread = threading.Thread(target=lambda: batch.extend(pipeline.generate_batch([SLOW] * 2)))
    thread.start()
    until(lambda: running(pipeline) == 5, 3)
    pipeline.close()
    pipeline.close()
    parts += stream
    thread.join(3)
    assert [part.finish_reason for part in parts if part.finish_reason] == ["cancelled"]
    assert [answer.finish_reason for answer in batch] == ["cancelled"] * 2
    for attempt in (lambda: pipeline.generate("x"), lambda: next(pipeline.stream("x"))):
        with pytest.raises(EngineError, match="the pipeline is closed"):
            attempt()
    assert contexts(pipeline) == 0
    assert not pipeline._ensemble._contexts._user_mark.exists()


def test_closing_while_a_request_starts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request must not get to an engine that has stopped, which would never answer it."""
    pipeline = Pipeline.from_repository(repository)
    preprocessor = pipeline._ensemble._preprocessor
    prepare, started, go_on = preprocessor.process_batch, threading.Event(), threading.Event()

    def slow(requests: Any) -> Any:
        started.set()
        go_on.wait(5)
        return prepare(requests)

    monkeypatch.setattr(preprocessor, "process_batch", slow)
    answers: list[Any] = []
    asking = threading.Thread(
        target=lambda: answers.extend(pipeline.generate_batch([SLOW])), daemon=True
    )
    asking.start()
    assert started.wait(5)
    closing = threading.Thread(target=pipeline.close)
    closing.start()
    closing.join(0.2)
    go_on.set()
    closing.join(5)
    asking.join(5)
    assert [answer.finish_reason for answer in answers] == ["cancelled"]
    assert not pipeline._ensemble._contexts._user_mark.exists()


def test_garbage_is_closed_in_whatever_thread_it_is_collected(repository: Path) -> None:
    """Here in the thread that decodes, for which closing waits."""
    pipeline = Pipeline.from_repository(repository)
    stream = pipeline.stream(ENDLESS)
    next(stream)
    ensemble = pipeline._ensemble
    postprocessor = ensemble._postprocessor
    decode = postprocessor.process

    def collect(*arguments: Any) -> Any:
        postprocessor.process = decode  # type: ignore[method-assign]
        gc.collect()
        return decode(*arguments)

    cycle: list[Any] = [pipeline, stream]
    cycle.append(cycle)
    gc.disable()
    try:
        del cycle, pipeline, stream
        postprocessor.process = collect  # type: ignore[method-assign]
        until(lambda: not ensemble._contexts._user_mark.exists(), 5)
    finally:
        gc.enable()
    assert not ensemble._dispatcher._thread.is_alive()


SCRIPT = """
import sys
from trt_tokenizers import Pipeline

pipeline = Pipeline.from_model(
    sys.argv[1], engine="replay:ReplayEngine", tokenizer_dir=sys.argv[2], max_tokens_per_chunk=1,
    engine_parameters={"steps_per_second": "1000"},
)
print(pipeline.generate("hello", max_tokens=9).text)
stream = pipeline.stream("word " * 2000, max_tokens=8000)
next(stream)
print(pipeline._ensemble._contexts.directory)
"""


def test_a_program_that_closes_nothing_ends_and_leaves_nothing(
    repository: Path, bpe_dir: Path
) -> None:
    model = repository.with_name("repo-model")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model), str(bpe_dir)],
        env={**os.environ, "PYTHONPATH": str(Path(replay.__file__).parent)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    answer, folder = done.stdout.split()
    assert answer == "hello"
    # The folder is that of this process, which other tests may use.
    left = [*Path(folder).iterdir()] if Path(folder).exists() else []
    assert not any(path.name.startswith("running-") for path in left)


def test_the_cpp_backend_is_refused_with_the_alternatives(
    repository: Path, tmp_path: Path, bpe_dir: Path
) -> None:
    what = "tensorrtllm .* runs only inside tritonserver; serve it with launch_server .* llmapi"
    with pytest.raises(SettingsError, match=what):
        Pipeline.from_model(bpe_dir, engine="tensorrtllm")
    for path in repository.glob("*/config.pbtxt"):
        (tmp_path / path.parent.name).mkdir()
        text = path.read_text()
        if path.parent.name == "tensorrt_llm":
            text = text.replace('backend: "python"', 'backend: "tensorrtllm"')
        (tmp_path / path.parent.name / path.name).write_text(text)
    with pytest.raises(SettingsError, match=what):
        Pipeline.from_repository(tmp_path)


def test_what_cannot_be_loaded_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"ensemble/config.pbtxt:1: No such file"):
        Pipeline.from_repository(tmp_path)
    with pytest.raises(RepositoryError, match=r"holds no config\.json"):
        Pipeline.from_model(tmp_path)
    model = repository.with_name("repo-model")
    with pytest.raises(RepositoryError, match=r"unknown value 'dtyp' \(did you mean 'dtype'"):
        Pipeline.from_model(model, tokenizer_dir=model, dtyp="float32")


def test_ranks_of_mpi_are_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    with pytest.raises(SettingsError, match=r"give 2 ranks, .* launch_server --world-size"):
        Pipeline.from_repository(repository)


def test_outputs_are_json(pipeline: Pipeline) -> None:
    with contextlib.closing(pipeline.stream(TEXT, max_tokens=20, return_log_probs=True)) as parts:
        for part in parts:
            assert json.loads(json.dumps(part.outputs())) == part.outputs()


def test_the_programs_of_the_documentation_run(
    repository: Path, bpe_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """They run on the engine of these tests, which has other settings."""
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    load = Pipeline.from_model
    used = inspect.signature(load)

    def replayed(*arguments: Any, **options: Any) -> Pipeline:
        settings = used.bind(*arguments, **options).arguments.get("settings", {})
        model = repository.with_name("repo-model")
        values = {name: as_text(value) for name, value in settings.items()}
        render(GenerateOptions("transformers", model, values=values))  # refuses unknown settings
        return load(model, engine="replay:ReplayEngine", tokenizer_dir=bpe_dir)

    monkeypatch.setattr(Pipeline, "from_model", replayed)
    programs = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(programs) == 5
    for program in programs:
        exec(program, {})
    assert "Once upon a time" in capsys.readouterr().out
