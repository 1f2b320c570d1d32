"""The three Triton models, in one process, on a double of Triton's Python module."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils

import keyless
import replay
from harness import generate_replay, without_keys
from in_process import Client, InProcessTriton, arguments
from launching import until
from texts import HARD_TEXTS
from trt_tokenizers import backend
from trt_tokenizers.engines.base import Chunk
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.processing.output_arrays import as_declared
from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.streams.stream_folder import open_streams

OLD, NEW = (24, 10), (25, 2)
#: How keys travel, on which Triton.
WAYS = [("tensor", OLD), ("tensor", NEW), ("request_id", OLD), ("sequence_id", NEW)]
TEXT = "".join(HARD_TEXTS)
LONG = {"text_input": "word " * 2000, "max_tokens": 8000, "stream": True}


@pytest.fixture(scope="session")
def repositories(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """With an engine that returns keys, and with TensorRT-LLM's tensors only."""
    folder = tmp_path_factory.mktemp("backend")
    sizes = ("--engine-parameter", "chunk_sizes=1,3,2,7", "--set", "max_tokens_per_chunk=1")
    pace = ("--engine-parameter", "steps_per_second=400")
    return {
        "keys": generate_replay(folder / "keys", bpe_dir, *sizes, *pace),
        "keyless": without_keys(generate_replay(folder / "keyless", bpe_dir, *sizes, *pace)),
    }


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The stream folder of this test's models; a socket's path must be short."""
    with tempfile.TemporaryDirectory() as short:
        folder = Path(short) / "streams"
        monkeypatch.setattr(
            "trt_tokenizers.streams.stream_folder.stream_folder", lambda server_pid: folder
        )
        yield folder


Load = Callable[..., InProcessTriton]


@pytest.fixture
def load(
    repositories: dict[str, Path], streams: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Load]:
    """Loads a repository on a Triton of some age, and ends it."""
    started: list[InProcessTriton] = []

    def start(age: tuple[int, int], kind: str) -> InProcessTriton:
        monkeypatch.setattr(pb_utils, "AGE", age)
        engine = keyless.TritonPythonModel if kind == "keyless" else backend.EngineModel
        started.append(InProcessTriton(repositories[kind], engine))
        return started[-1]

    yield start
    for triton in started:
        triton.finalize()
    gc.unfreeze()  # finalize() expects the process to end


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{way[1][0]}.{way[1][1]:02}")
def triton(request: pytest.FixtureRequest, load: Load) -> InProcessTriton:
    transport, age = request.param
    triton = load(age, "keys" if transport == "tensor" else "keyless")
    assert triton.postprocessing._transport.value == transport
    return triton


def tokens(triton: InProcessTriton, text: str) -> int:
    return len(triton.preprocessing._preprocessor.tokenizer.encode(text))


def clients(count: int, **body: Any) -> list[Client]:
    return [
        Client({"text_input": f"{n} {TEXT}", **body}, f"request-{n}", sequence_end=True)
        for n in range(count)
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_comes_back(triton: InProcessTriton, streams: Path, stream: bool) -> None:
    asked = clients(4, stream=stream)
    for client in asked:
        client.body["max_tokens"] = tokens(triton, client.body["text_input"])
    triton.run(*asked)
    for client in asked:
        assert client.error is None
        assert client.text == client.body["text_input"]
        assert client.finish_reason == "length"
        assert client.chunks[-1]["num_output_tokens"].item() == client.body["max_tokens"]
        assert (len(client.chunks) > 3) == stream
    assert [*open_streams(streams)] == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_cuts_the_text(triton: InProcessTriton, stream: bool) -> None:
    body = {"text_input": "one two three four", "max_tokens": 99, "stop_words": ["wo th"]}
    client = Client({**body, "stream": stream}, "id")
    triton.run(client)
    assert (client.text, client.finish_reason) == ("one t", "stop")


def test_a_stop_string_stops_the_engine(triton: InProcessTriton, streams: Path) -> None:
    """It does not end at a token's end, so the engine's own stop words do not match."""
    client = Client({**LONG, "stop_words": ["rd wor"]}, "id")
    started = time.monotonic()
    triton.run(client)
    assert time.monotonic() - started < 3, "the whole text takes 5 s or more"
    assert client.text == "wo"
    assert {chunk["text_output"].item() for chunk in client.chunks[2:]} <= {b"", b"wo"}
    assert triton.engine._server.running == 0
    assert [*open_streams(streams)] == []


def test_a_cancelled_stream_ends(triton: InProcessTriton, streams: Path) -> None:
    client = Client(dict(LONG), "id")
    triton.start(client)
    triton.step()
    assert triton.postprocessing._postprocessor.alive == 1
    client.cancelled = True
    deadline = time.monotonic() + 3
    while triton.postprocessing._postprocessor.alive and time.monotonic() < deadline:
        triton.step()
    assert triton.postprocessing._postprocessor.alive == 0
    assert [*open_streams(streams)] == []
    until(lambda: triton.engine._server.running == 0, 3)


def test_a_waiting_stream_ends_when_its_client_is_gone(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine has no token for it, so only empty chunks reach postprocessing."""
    monkeypatch.setattr(replay.ReplayEngine, "_step", lambda self, row: None)
    monkeypatch.setattr("trt_tokenizers.engines.dispatcher._POLL_S", 0.05)
    triton = load(OLD, "keys")
    client = Client({"text_input": "x", "max_tokens": 5, "stream": True})
    triton.start(client)
    triton.step()
    triton.step()
    assert (client.text, triton.engine._server.running) == ("", 1)
    client.cancelled = True
    deadline = time.monotonic() + 5
    while triton.engine._server.running and time.monotonic() < deadline:
        triton.step()
    assert triton.engine._server.running == 0
    assert value("time_to_first_token_seconds") == 0, "an empty chunk is not the first token"


def test_without_decoupled_responses_each_request_has_one(
    repositories: dict[str, Path], load: Load, tmp_path: Path
) -> None:
    text = (repositories["keys"] / "tensorrt_llm" / "config.pbtxt").read_text()
    shutil.copytree(repositories["keys"], tmp_path / "whole")
    config = tmp_path / "whole" / "tensorrt_llm" / "config.pbtxt"
    config.write_text(text.replace("decoupled: true", "decoupled: false"))
    repositories["whole"] = tmp_path / "whole"
    triton = load(OLD, "whole")
    whole, streamed = clients(1)[0], Client({"text_input": "x", "max_tokens": 5, "stream": True})
    whole.body["max_tokens"] = tokens(triton, whole.body["text_input"])
    triton.run(whole, streamed)
    assert (whole.text, len(whole.chunks)) == (whole.body["text_input"], 1)
    assert streamed.error.code() == pb_utils.TritonError.INVALID_ARG
    assert "decoupled_mode is false" in streamed.error.message()


def test_a_bad_request_does_not_affect_its_batch(triton: InProcessTriton, streams: Path) -> None:
    bad = Client({"text_input": "", "max_tokens": 5}, "bad")
    wrong = Client({"text_input": "x", "max_tokens": 0}, "wrong")
    first, last = clients(2, stream=True)
    for client in (first, last):
        client.body["max_tokens"] = tokens(triton, client.body["text_input"])
    triton.run(first, bad, wrong, last)
    for client, message in ((bad, "the prompt is empty"), (wrong, "max_tokens is 0")):
        assert client.error.code() == pb_utils.TritonError.INVALID_ARG
        assert message in client.error.message()
    for client in (first, last):
        assert client.text == client.body["text_input"]
    assert [*open_streams(streams)] == []


def test_an_engine_error_reaches_its_client_only(
    triton: InProcessTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = replay.ReplayEngine.submit

    def fail_short(self: Any, request: Any, emit: Any) -> None:
        if len(request.prompt_ids) < 50:
            emit(Chunk(token_ids=request.prompt_ids[:1]))
            emit(Chunk(error="out of memory"))
        else:
            submit(self, request, emit)

    monkeypatch.setattr(replay.ReplayEngine, "submit", fail_short)
    bad = Client({"text_input": "short", "max_tokens": 5, "stream": True}, "bad")
    (good,) = clients(1, stream=True)
    good.body["max_tokens"] = tokens(triton, good.body["text_input"])
    triton.run(bad, good)
    assert bad.error.code() == pb_utils.TritonError.INTERNAL
    assert bad.error.message() == "internal error: out of memory"
    assert good.text == good.body["text_input"]


@pytest.mark.parametrize("began", [True, False])
@pytest.mark.parametrize(
    ("refused", "code", "message"),
    [
        (False, pb_utils.TritonError.INTERNAL, "internal error: too long: €"),
        (True, pb_utils.TritonError.INVALID_ARG, "too long: €"),
    ],
)
def test_postprocessing_fails_in_place_of_an_engine_that_has_begun(
    load: Load, streams: Path, monkeypatch: pytest.MonkeyPatch, *, began: bool, refused: bool,
    code: Any, message: str,
) -> None:  # fmt: skip
    triton = load(OLD, "keys")

    def fail(self: Any, request: Any, emit: Any) -> None:
        if began:
            emit(Chunk(token_ids=request.prompt_ids[:1]))
        threading.Timer(0.1, emit, [Chunk(error="too long: €", refused=refused)]).start()

    monkeypatch.setattr(replay.ReplayEngine, "submit", fail)
    client = Client({"text_input": "short", "max_tokens": 5, "stream": True})
    triton.run(client)
    assert len(client.chunks) == began
    assert (client.error.code(), client.error.message()) == (code, message)
    assert client.failed_by == ("postprocessing" if began else "tensorrt_llm")
    assert triton.postprocessing._postprocessor.alive == 0
    assert [*open_streams(streams)] == []


def test_a_request_that_the_engine_refuses_leaves_no_context(load: Load, streams: Path) -> None:
    triton = load(OLD, "keys")
    client = Client({"text_input": "x", "max_tokens": 5, "beam_width": 2})
    triton.run(client)
    assert client.error.code() == pb_utils.TritonError.INVALID_ARG
    assert "beam_width is 2" in client.error.message()
    assert [*open_streams(streams)] == []


@pytest.mark.parametrize("sequence_end", [False, True])
def test_the_sequence_end_flag_ends_a_stream(load: Load, streams: Path, sequence_end: bool) -> None:
    """Without a sign of the end, the beginning of a stop string is held back for ever."""
    triton = load(NEW, "keyless")
    body = {"text_input": "one two", "max_tokens": 99, "stop_words": ["two!"], "stream": True}
    client = Client(body, sequence_end=sequence_end)
    triton.run(client)
    assert client.text == ("one two" if sequence_end else "one ")
    if sequence_end:
        assert client.finish_reason == "stop"
    else:
        assert "finish_reason" not in client.chunks[-1]
    assert len([*open_streams(streams)]) == (0 if sequence_end else 1)


def test_without_a_key_each_response_is_decoded_alone(load: Load) -> None:
    triton = load(OLD, "keyless")
    pb_utils.Logger.lines.clear()
    client = Client({"text_input": "The  capital\n\tof France ", "max_tokens": 99, "stream": True})
    triton.run(client)
    assert client.text == "The  capital\n\tof France "
    assert sum("carry no stream key" in line for line in pb_utils.Logger.lines) == 1


def test_a_stopping_server_refuses_new_requests(load: Load, streams: Path) -> None:
    triton = load(OLD, "keys")
    (streams / "draining").touch()
    time.sleep(0.06)
    client = Client({"text_input": "x", "max_tokens": 1})
    triton.run(client)
    assert client.error.code() == pb_utils.TritonError.UNAVAILABLE
    assert "takes no new requests" in client.error.message()


def test_an_unexpected_error_is_logged_and_internal(load: Load) -> None:
    triton = load(OLD, "keys")
    pb_utils.Logger.lines.clear()
    request = pb_utils.InferenceRequest([])  # no tensors: a bug of the ensemble
    (response,) = triton.postprocessing.execute([request])
    assert response.error().code() == pb_utils.TritonError.INTERNAL
    assert response.error().message() == "internal error: KeyError: 'TOKENS_BATCH'"
    assert any("unexpected error\nTraceback" in line for line in pb_utils.Logger.lines)


class Bytes(pb_utils.InferenceRequest):
    """A request whose id or parameters are bytes that are no UTF-8, as Triton's HTTP takes them."""

    wrong = "request_id"

    def __getattribute__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "wrong"):
            return lambda: b"id\xff".decode()
        return super().__getattribute__(name)


@pytest.mark.parametrize("wrong", ["request_id", "parameters"])
@pytest.mark.parametrize("model", ["preprocessing", "postprocessing"])
def test_an_id_or_parameter_that_is_no_utf8_is_refused(load: Load, model: str, wrong: str) -> None:
    triton = load(OLD, "keyless")
    request = Bytes(
        [
            pb_utils.Tensor("QUERY", np.array([[b"x"]], dtype=np.object_)),
            pb_utils.Tensor("TOKENS_BATCH", np.array([[[50]]], dtype=np.int32)),
        ]
    )
    request.wrong = wrong
    good = pb_utils.InferenceRequest(request.inputs())
    bad, answered = triton.models[model].execute([request, good])
    assert not answered.has_error()
    if (model, wrong) == ("postprocessing", "parameters"):
        return  # it does not read them
    assert bad.error().code() == pb_utils.TritonError.INVALID_ARG
    assert bad.error().message() == (
        "the request id or a parameter is not valid UTF-8: invalid start byte; send UTF-8"
    )


class Panic(BaseException):
    """As pyo3's PanicException: no `Exception`."""


def test_a_panic_of_the_tokenizer_fails_its_request_only(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = load(OLD, "keys")
    pb_utils.Logger.lines.clear()
    tokenizer = triton.preprocessing._preprocessor.tokenizer
    encode = tokenizer.encode_prompts

    def panic(texts: list[str], **more: bool) -> list[list[int]]:
        if "bomb" in texts:
            raise Panic("backtrack limit\nat /srv/models/tokenizer.rs:7")
        return encode(texts, **more)

    monkeypatch.setattr(tokenizer, "encode_prompts", panic)
    bad = Client({"text_input": "bomb", "max_tokens": 5})
    good = Client({"text_input": "word", "max_tokens": tokens(triton, "word")})
    triton.run(bad, good)
    assert bad.error.code() == pb_utils.TritonError.INTERNAL
    assert bad.error.message() == (
        "internal error: the tokenizer failed on this request: Panic: backtrack limit"
    )
    assert good.text == "word"
    assert not any("Traceback" in line for line in pb_utils.Logger.lines)

    def stream(**more: bool) -> Any:
        raise Panic("decode")

    monkeypatch.setattr(triton.postprocessing._postprocessor.tokenizer, "stream", stream)
    client = Client({"text_input": "word", "max_tokens": 1})
    triton.run(client)
    assert client.error.message() == (
        "internal error: the tokenizer failed on this request: Panic: decode"
    )


def test_texts_have_one_dimension_as_nvidias(load: Load) -> None:
    """NVIDIA's clients decode output[0]; rows and beams follow each other."""
    triton = load(OLD, "keyless")
    encode = triton.postprocessing._postprocessor.tokenizer.encode
    ids = [[encode(text)[0] for text in row] for row in (("a", "b"), ("c", "d"))]
    request = pb_utils.InferenceRequest(
        [pb_utils.Tensor("TOKENS_BATCH", np.array(ids, dtype=np.int32)[..., np.newaxis])]
    )
    (response,) = triton.postprocessing.execute([request])
    arrays = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
    assert arrays["OUTPUT"].tolist() == [b"a", b"b", b"c", b"d"]


def test_a_stop_waits_for_the_ensemble_and_not_for_preprocessing_alone(
    triton: InProcessTriton, streams: Path
) -> None:
    """The C++ backend may be silent for minutes before its answer. A client that calls
    preprocessing alone, and names no outputs, leaves a context that nobody takes. A Python engine
    gives signs of life, so a stop waits for none of its contexts without a limit."""
    waits = triton.postprocessing._transport.value != "tensor"
    triton.start(Client({"text_input": "word", "max_tokens": 1}, "ensemble"))
    assert [stream.waits for stream in open_streams(streams)] == [waits]
    request = pb_utils.InferenceRequest(
        [pb_utils.Tensor("QUERY", np.array([[b"word"]], dtype=np.object_))],
        request_id="alone",
        requested_output_names=[o.name for o in triton.configs["preprocessing"].output],
    )
    (response,) = triton.preprocessing.execute([request])
    assert not response.has_error()
    assert sorted(stream.waits for stream in open_streams(streams)) == [False, waits]
    triton.run()
    assert [stream.waits for stream in open_streams(streams)] == [False]


def test_two_clients_with_one_request_id(load: Load, streams: Path) -> None:
    """The second is refused while the first lives, and the first gets its own text."""
    triton = load(OLD, "keyless")
    first, second = clients(2, stream=True)
    first.body["max_tokens"] = tokens(triton, first.body["text_input"])
    second.request_id = first.request_id
    triton.start(first)
    triton.start(second)
    triton.step()
    triton.start(again := Client(dict(second.body), first.request_id))
    for refused in (second, again):
        assert refused.error.code() == pb_utils.TritonError.INVALID_ARG
        assert "the request id 'request-0' is in use" in refused.error.message()
    triton.run()
    assert first.text == first.body["text_input"]
    later = Client({"text_input": TEXT, "max_tokens": tokens(triton, TEXT)}, first.request_id)
    triton.run(later)
    assert later.text == TEXT


def test_a_context_of_preprocessing_alone_does_not_delay_a_stop(load: Load, streams: Path) -> None:
    triton = load(OLD, "keys")
    request = pb_utils.InferenceRequest(
        [pb_utils.Tensor("QUERY", np.array([[b"alone"]], dtype=np.object_))]
    )
    triton.preprocessing.execute([request])
    assert [stream.waits for stream in open_streams(streams)] == [False]


def test_a_whole_answer_in_the_engine_delays_a_stop(
    load: Load, streams: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trt_tokenizers.engines.dispatcher._POLL_S", 0.05)
    monkeypatch.setattr(replay.ReplayEngine, "submit", lambda self, request, emit: None)
    triton = load(OLD, "keys")
    triton.start(*clients(1, stream=False, max_tokens=9))
    started = time.monotonic()
    while time.monotonic() < started + 0.5:
        assert all(stream.silent_s < 0.3 for stream in open_streams(streams))
    assert len([*open_streams(streams)]) == 1


HEALTH = """
import ctypes, os, sys, threading, time
sys.path.insert(0, sys.argv[1])
ctypes.CDLL(None).prctl(15, sys.argv[2].encode())  # PR_SET_NAME
thread = threading.Thread(target=time.sleep, args=(60,), daemon=True)
thread.start()
import trt_tokenizers.streams.health_thread as its
at_import = sorted(name for name in sys.modules if name in ("numpy", "json"))
import trt_tokenizers.backend
print(os.sched_getscheduler(thread.native_id) & 0xF, os.sched_getscheduler(0) & 0xF, at_import)
"""


@pytest.mark.parametrize("name", ["triton_python_backend_stub", "python"])
def test_threads_of_a_stub_get_priority(name: str) -> None:
    """All but the thread that imports the backend, if this machine permits it."""
    fakes = Path(pb_utils.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", HEALTH, str(fakes), name], check=True, stdout=subprocess.PIPE
    )
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        permitted = True
    except PermissionError:
        permitted = False
    raised = permitted and name != "python"
    policy = os.SCHED_RR if raised else os.SCHED_OTHER
    assert done.stdout.decode().strip() == f"{policy} {os.SCHED_OTHER} []"


def test_sequence_id_needs_a_newer_triton(
    repositories: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pb_utils, "AGE", OLD)
    folder = repositories["keyless"] / "postprocessing"
    config = parse_config((folder / "config.pbtxt").read_text())
    config.parameters["stream_key"].string_value = "sequence_id"
    with pytest.raises(SettingsError, match=r"needs Triton 25\.02 or newer; set it to auto"):
        backend.PostprocessingModel().initialize(arguments("postprocessing", folder, config))


def test_outputs_have_the_declared_types() -> None:
    """TensorRT-LLM 0.5 has unsigned ids: -1, which means none, is omitted."""
    types = {"a": np.dtype("uint32"), "b": np.dtype("uint32"), "d": np.dtype("int32")}
    arrays = {"a": np.array([[1]], np.int32), "b": np.array([[-1]], np.int32), "c": np.array([0])}
    declared = as_declared(arrays, types)
    assert {name: array.dtype for name, array in declared.items()} == {"a": np.dtype("uint32")}
    assert as_declared(arrays, {"b": np.dtype("int32")})["b"] is arrays["b"], "nothing is copied"


def test_collections_of_garbage_skip_what_the_engine_has_loaded(load: Load) -> None:
    """A collection of all objects would stop all streams, for 0.4 s with vLLM."""
    assert gc.get_freeze_count() == 0
    load((25, 2), "keys")
    assert gc.get_freeze_count() > len(gc.get_objects())


def test_finalize_leaves_nothing(load: Load, streams: Path) -> None:
    """Metric objects that outlive finalize() end Triton's stub with a segmentation fault."""
    before = set(threading.enumerate())
    triton = load(NEW, "keys")
    triton.run(*clients(2, stream=True, max_tokens=9), Client({"text_input": ""}))
    until(lambda: value("requests_total") == 3 and value("generation_tokens_total") == 18)
    assert value("request_errors_total", kind="RequestError") == 1
    triton.finalize()
    assert not streams.exists()
    assert [*pb_utils.LIVE_METRICS] == []
    until(lambda: set(threading.enumerate()) <= before, 2)


def value(name: str, **labels: str) -> float:
    """Sum of a metric's values."""
    families = [m for m in pb_utils.LIVE_METRICS if isinstance(m, pb_utils.MetricFamily)]
    return sum(
        metric.value()
        for family in families
        if family.name == f"trt_tokenizers:{name}"
        for metric in family.metrics
        if labels.items() <= metric.labels.items()
    )


def test_the_double_has_the_constants_of_the_real_module() -> None:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel nvidia-pytriton is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "tritonserver" / "backends" / "python"
    path = folder / "triton_python_backend_utils.py"
    spec = importlib.util.spec_from_file_location("real_utils", path)
    assert spec is not None
    assert spec.loader is not None
    real = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(real)
    for name in dir(pb_utils):
        if name.startswith("TRITONSERVER_"):
            assert getattr(pb_utils, name) == getattr(real, name)
    for name, dtype in real.TRITON_STRING_TO_NUMPY.items():
        assert np.dtype(pb_utils.triton_string_to_numpy(name)) == np.dtype(dtype)
