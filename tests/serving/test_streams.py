"""Streams through the real Triton, with an engine that returns the prompt: the text is known.

64 streams run at once, each with a different text, in responses of 1 to 7 tokens.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpcclient

from harness import Server, descendants, generate_replay, joined, launched, tensors, without_keys
from texts import HARD_TEXTS
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.registry import create

pytestmark = pytest.mark.triton

# One response per emission: the engine decides how the tokens are divided.
CHUNK_SIZES = (1, 3, 2, 7, 5, 4, 6)
SIZES = (
    *("--engine-parameter", f"chunk_sizes={','.join(map(str, CHUNK_SIZES))}"),
    *("--set", "max_tokens_per_chunk=1"),
)
STREAMS = 64


def text(number: int) -> str:
    """A different text for each number: all scripts, with white space at both ends."""
    hard = HARD_TEXTS[number % len(HARD_TEXTS)]
    return (
        f" {number}: {hard}{hard} \n{number * 7919}\t{HARD_TEXTS[(number * 5) % len(HARD_TEXTS)]}"
    )


def body(number: int, **more: Any) -> dict[str, Any]:
    return {"text_input": text(number), "max_tokens": 4000, "stream": True, **more}


#: Some tests leave contexts; the stop waits for them, but only this long.
SOON = ("--drain-timeout", "3")


@pytest.fixture(scope="module", params=["auto", "llama"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Byte-level BPE, and SentencePiece with byte fallback; two instances of preprocessing."""
    kind = request.param
    folder = tmp_path_factory.mktemp(f"replay-{kind}")
    tokenizer = request.getfixturevalue("bpe_dir" if kind == "auto" else "sentencepiece_dir")
    outputs = "text_output,finish_reason,num_output_tokens,output_log_probs,cum_log_probs,token_ids"
    two = ("--set", "preprocessing_instance_count=2")
    options = (
        "--tokenizer-type", kind, "--set", "add_bos=false", "--set", "max_queue_size=0",
        "--outputs", outputs, *two, *SIZES,
    )  # fmt: skip
    repository = generate_replay(folder / "repo", tokenizer, *options)
    with launched(repository, folder, *SOON) as server:
        # The replayed ids begin with SentencePiece's dummy space. The answer continues the
        # prompt's text, so it keeps this space.
        server.prefix = "" if kind == "auto" else " "
        yield server


#: For what does not depend on the tokenizer.
one_tokenizer = pytest.mark.parametrize("server", ["auto"], indirect=True)


def expected(server: Server) -> list[str]:
    return [server.prefix + text(n) for n in range(STREAMS)]


def test_one_connection(server: Server) -> None:
    streams = server.streams([body(n) for n in range(STREAMS)])
    assert [joined(chunks) for chunks in streams] == expected(server)
    assert max(map(len, streams)) > 3, "these are streams, not whole answers"


def test_many_connections(server: Server) -> None:
    with ThreadPoolExecutor(16) as pool:
        streams = list(pool.map(lambda n: server.streams([body(n)])[0], range(STREAMS)))
    assert [joined(chunks) for chunks in streams] == expected(server)


@one_tokenizer
def test_more_requests_wait_than_triton_keeps_payloads(server: Server) -> None:
    """Triton keeps 1,000 payloads; with dynamic batching more than that ended the server."""
    bodies = [{"text_input": f"{n} waits", "max_tokens": 40, "stream": True} for n in range(1500)]
    answers = [joined(chunks) for chunks in server.streams(bodies)]
    assert answers == [f"{server.prefix}{n} waits" for n in range(1500)]


def test_http(server: Server) -> None:
    with ThreadPoolExecutor(STREAMS) as pool:
        events = list(pool.map(lambda n: server.sse(body(n)), range(STREAMS)))
    for whole, stream in zip(expected(server), events, strict=True):
        assert "".join(event["text_output"] for event in stream) == whole
        assert stream[-1]["finish_reason"] == "length"


@one_tokenizer
def test_several_instances_of_preprocessing_mix_no_streams(server: Server) -> None:
    """Two processes make keys in one folder; an error goes to the wrong request only."""
    instances = [
        pid
        for pid in descendants(server.process.pid)
        if "/preprocessing/1/model.py" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    assert len(instances) == 2

    def busy() -> list[int]:
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2] for pid in instances]
        return [int(stat.split()[11]) for stat in stats]

    def ask(number: int) -> tuple[int, str]:
        wrong = number % 3 == 1
        asked = body(number % STREAMS, stream=False, **({"text_input": ""} if wrong else {}))
        status, answer = server.generate(asked)
        return status, answer["error" if wrong else "text_output"]

    before = busy()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(STREAMS * 4)))
    assert all(now > then for now, then in zip(busy(), before, strict=True)), "both had work"
    for number, (status, text_or_error) in enumerate(answers):
        if number % 3 == 1:
            assert status == 400
            assert "the prompt is empty" in text_or_error
        else:
            assert (status, text_or_error) == (200, expected(server)[number % STREAMS])
    assert server.contexts() == 0


@pytest.fixture
def slow_http_threads(server: Server) -> Iterator[None]:
    """Triton's HTTP threads get only the CPU time that three busy processes leave."""
    if os.geteuid() != 0:
        pytest.skip("only root may enlarge the sockets of HTTP threads and restore their priority")
    http = [
        int(task.name)
        for pid in descendants(server.process.pid)
        if "tritonserver" in Path(f"/proc/{pid}/comm").read_text()
        for task in Path(f"/proc/{pid}/task").iterdir()
        if "epoll" in (task / "wchan").read_text()
    ]
    assert len(http) >= 8
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    for thread in http:
        os.setpriority(os.PRIO_PROCESS, thread, 19)
    yield
    for thread in http:
        os.setpriority(os.PRIO_PROCESS, thread, 0)
    for process in busy:
        process.kill()
        process.wait()


@one_tokenizer
@pytest.mark.usefixtures("slow_http_threads")
def test_http_on_a_busy_machine(server: Server) -> None:
    """Triton drops responses if its HTTP threads fall behind; the launcher prevents that."""

    def ask(number: int) -> str:
        asked = body(number, text_input=text(number) * 3)
        return "".join(event["text_output"] for event in server.sse(asked))

    with ThreadPoolExecutor(STREAMS) as pool:
        answers = list(pool.map(ask, range(STREAMS)))
    assert answers == [server.prefix + text(n) * 3 for n in range(STREAMS)]


def test_whole(server: Server) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: server.ask(body(n, stream=False)), range(STREAMS)))
    assert [answer["text_output"] for answer in answers] == expected(server)


def test_log_probs_match_the_tokens_of_the_answer(server: Server) -> None:
    for stop, more in (([], {}), (["7919"], {}), ([], {"max_tokens": 5})):
        asked = {**body(1, return_log_probs=True, stop_words=stop or [""]), **more}
        (chunks,) = server.streams([asked])
        count = int(chunks[-1]["num_output_tokens"].item())
        assert chunks[-1]["cum_log_probs"].item() == -count  # each of replay's is -1
        assert sum(float(c["output_log_probs"].sum()) for c in chunks) == -count


def test_token_ids_are_those_of_the_text(server: Server) -> None:
    prompt = server.preprocess({"text_input": text(3)})["INPUT_ID"][0].tolist()
    plain, chunks = server.streams([body(3), body(3, return_token_ids=True)])
    assert not any("token_ids" in chunk for chunk in plain)
    assert [i for c in chunks for i in c["token_ids"].ravel().tolist() if i >= 0] == prompt


STOPS: list[tuple[str, list[str]]] = [
    ("plain", ["stops"]), ("first character", ["T"]), ("at the very end", ["end."]),
    ("never", ["nowhere"]), ("inside a token", ["top"]), ("over tokens", ["text st"]),
    ("space before", [" text"]), ("space after", ["text "]), ("only a space", [" "]),
    ("two spaces", ["  "]), ("newline", ["\n"]), ("empty line", ["\n\n"]), ("tab", ["\t"]),
    ("JSON end", ['"}']), ("JSON end and line", ['"}\n']), ("comma", [","]),
    ("comma inside", ["a, b"]), ("CSV-like", ['"a","b"']), ("CJK", ["世"]), ("two CJK", ["世界"]),
    ("half of a joined emoji", ["\u200d"]), ("emoji", ["👍"]), ("skin tone", ["🏽"]),
    ("combining mark", ["\u0301"]), ("earliest of several", ["界", "stops", "text"]),
    ("one inside another", ["text stops", "stop"]), ("prefixes", ["st", "sto", "stops"]),
    ("almost, then really", ["\n\n{"]), ("longer than the text", ["x" * 500]), ("empty", [""]),
    ("same twice", ["stops", "stops"]), ("period", ["."]),
]  # fmt: skip
STOP_TEXT = (
    'This text stops,  here: a, b and "a","b"\tthen\n \n\nJSON {"k": "v"}\n\n{ 世界 e\u0301 '
    "👨\u200d👩 👍🏽 to the end."
)


@pytest.mark.parametrize("include", [False, True])
def test_stop_strings(server: Server, include: bool) -> None:
    """Every case of the table, streamed and whole, must equal the whole text cut in Python."""

    def cut(stops: list[str]) -> str:
        whole = server.prefix + STOP_TEXT
        ends = [(whole.find(s) + len(s), -len(s)) for s in stops if s and s in whole]
        if not ends:
            return whole
        end, length = min(ends)
        return whole[: end if include else end + length]

    bodies = [
        {"text_input": STOP_TEXT, "max_tokens": 4000, "stop_words": stops,
         "include_stop_str_in_output": include}
        for _, stops in STOPS
    ]  # fmt: skip
    streams = server.streams([{**b, "stream": True} for b in bodies])
    with ThreadPoolExecutor(8) as pool:
        whole = list(pool.map(server.ask, bodies))
    for (name, stops), chunks, answer in zip(STOPS, streams, whole, strict=True):
        assert joined(chunks) == cut(stops), name
        assert answer["text_output"] == cut(stops), name
        stopped = any(s and s in STOP_TEXT for s in stops)
        reason = "stop" if stopped else "length"
        assert answer["finish_reason"] == reason, name
        assert chunks[-1]["finish_reason"].item().decode() == reason, name
        assert chunks[-1]["num_output_tokens"].item() == answer["num_output_tokens"], name


@pytest.fixture(scope="module")
def keyless(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("keyless")
    slow = ("--engine-parameter", "steps_per_second=100")
    repository = without_keys(generate_replay(folder / "repo", bpe_dir, *SIZES, *slow))
    with launched(repository, folder, *SOON) as server:
        yield server


def test_an_engine_without_keys_and_clients_with_ids(keyless: Server, bpe_dir: Path) -> None:
    """No response is marked as the last: the token count or a stop string tells the end."""
    tokenizer = create(TokenizerSettings(str(bpe_dir)))
    counts = [len(tokenizer.encode(text(n))) for n in range(STREAMS)]
    streams = keyless.streams([body(n, max_tokens=counts[n]) for n in range(STREAMS)])
    assert [joined(chunks) for chunks in streams] == [text(n) for n in range(STREAMS)]
    assert {chunks[-1]["finish_reason"].item() for chunks in streams} == {b"length"}
    stopped = [body(n, stop_words=[f"{n * 7919}"]) for n in range(1, STREAMS)]
    for number, chunks in enumerate(keyless.streams(stopped, ids="stop-"), 1):
        assert joined(chunks) == text(number).split(f"{number * 7919}")[0]
    assert settles(keyless, (0, 0), 3), "every state was freed"


def test_a_request_id_may_be_used_again(keyless: Server, bpe_dir: Path) -> None:
    tokenizer = create(TokenizerSettings(str(bpe_dir)))
    for number in range(4):
        stops = ["7919"] if number == 1 else [""]
        count = len(tokenizer.encode(text(number)))
        asked = body(number, stop_words=stops, max_tokens=count)
        (chunks,) = keyless.streams([asked], ids="again-")
        assert joined(chunks) == (text(1).split("7919")[0] if number == 1 else text(number))


@pytest.mark.parametrize("wrong", [b'"id": "\xff"', b'"timeout\xff": 1', b'"other": "\xff"'])
def test_bytes_that_are_no_utf8_are_one_line(keyless: Server, wrong: bytes) -> None:
    status, answer = keyless.generate(b'{"text_input": "x", "max_tokens": 1, %s}' % wrong)
    assert status == 400
    assert "is not valid UTF-8: invalid start byte" in answer["error"]
    assert "\n" not in answer["error"]


def test_an_engine_without_keys_is_stopped_by_request_id(keyless: Server) -> None:
    started = time.monotonic()
    (chunks,) = keyless.streams([{**LONG, "stop_words": ["rd wor"]}], ids="long-")
    assert joined(chunks) == "wo"
    assert time.monotonic() - started < 4, "all of it would take 10 s"
    assert settles(keyless, (0, 0), 2), running(keyless)


def test_an_engine_that_ends_without_any_sign_loses_no_text(keyless: Server) -> None:
    streams = keyless.streams([body(n) for n in range(STREAMS)], ids="silent-")
    assert [joined(chunks) for chunks in streams] == [text(n) for n in range(STREAMS)]


def test_without_a_key_no_space_is_lost(keyless: Server, bpe_dir: Path) -> None:
    """Each response is decoded alone; a character that is whole in a response stays whole."""
    plain = "The  capital of France is\n\tParis, as  far as   we know. "
    events = keyless.sse({"text_input": plain, "max_tokens": 4000})
    assert "".join(event["text_output"] for event in events) == plain
    assert len(events) > 3
    assert keyless.log.read_text().count("carry no stream key") == 1
    tokenizer = create(TokenizerSettings(str(bpe_dir)))
    ids, alone = tokenizer.encode(HARD_TEXTS[8]), ""
    for size in itertools.cycle(CHUNK_SIZES):
        if not ids:
            break
        decoder = tokenizer.stream(skip_special_tokens=True, first=False)
        alone += decoder.feed(ids[:size]) + decoder.finish()
        ids = ids[size:]
    hard = keyless.sse({"text_input": HARD_TEXTS[8], "max_tokens": 4000})
    assert "".join(event["text_output"] for event in hard) == alone


@pytest.fixture(scope="module")
def slow(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("slow")
    repository = generate_replay(
        folder / "repo", bpe_dir, "--engine-parameter", "steps_per_second=20"
    )
    with launched(repository, folder, *SOON) as server:
        yield server


def running(server: Server) -> tuple[float, float]:
    """Streams that have not ended, in the engine and in postprocessing."""
    return (
        server.metric("trt_tokenizers:engine_sequences_running"),
        server.metric("trt_tokenizers:num_requests_running"),
    )


def settles(server: Server, expected: tuple[float, float], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if running(server) == expected:
            return True
        time.sleep(0.1)
    return False


LONG = {"text_input": "word " * 4000, "max_tokens": 30000, "stream": True}


def test_cancelled_streams_free_their_resources(slow: Server) -> None:
    """200 streams whose clients cancel and disconnect while they run."""
    clients = []
    for _ in range(8):
        client = grpcclient.InferenceServerClient(slow.grpc)
        client.start_stream(callback=lambda result, error: None)
        for _ in range(25):
            client.async_stream_infer("ensemble", tensors(LONG))
        clients.append(client)
    assert settles(slow, (200, 200), 20), running(slow)
    for client in clients:
        client.stop_stream(cancel_requests=True)
        client.close()
    assert settles(slow, (0, 0), 5), running(slow)
    assert slow.contexts() == 0


def test_a_stop_string_stops_the_engine(slow: Server) -> None:
    """It does not end at a token's end, so the engine's own stop words do not match."""
    started = time.monotonic()
    answer = slow.sse({**LONG, "stop_words": ["rd wor"]})
    assert "".join(event["text_output"] for event in answer) == "wo"
    assert time.monotonic() - started < 5, "all of it would take 200 s"
    assert settles(slow, (0, 0), 2), running(slow)
