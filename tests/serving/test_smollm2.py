"""A real model in a real Triton, compared with transformers and with itself."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import Server, joined
from texts import HARD_TEXTS
from trt_tokenizers import Answer, Pipeline

pytestmark = [pytest.mark.triton, pytest.mark.model]


def user(text: str) -> str:
    return json.dumps([{"role": "user", "content": text}])


FRANCE = {"messages": user("What is the capital of France?"), "max_tokens": 32}


def test_whole_answer(server: Server) -> None:
    answer = server.ask(FRANCE)
    assert answer["text_output"] == "The capital of France is Paris."
    assert answer["finish_reason"] == "stop"
    assert answer["num_input_tokens"] == 37
    assert answer["num_output_tokens"] == 7


def test_the_users_own_call(server: Server) -> None:
    """The request of a user, unchanged: 200, and two with the same seed get the same text."""
    body = (
        rb'{"text_input": "[INST] <<SYS>>\nAnswer very seriously\n<</SYS>>\n\nwho is the best '
        rb'sportsman in the world? [/INST]", "parameters": {"max_tokens": 512, "bad_words":[""], '
        rb'"stop_words":[""], "end_id": 2, "random_seed": 42, "top_k": 20, "top_p": 0.95, '
        rb'"temperature": 0.5, "repetition_penalty": 1.2}}'
    )
    with ThreadPoolExecutor(2) as pool:
        (status, first), (_, second) = pool.map(server.generate, [body, body])
    assert status == 200
    assert first["text_output"].strip()
    assert second["text_output"] == first["text_output"]


def ask_all(server: Server, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(server.ask, bodies))


QUESTIONS = [
    "프랑스의 수도는 어디입니까? 한국어로 답하세요.",
    "法国的首都是哪里？请用中文回答。",
    "フランスの首都はどこですか？日本語で。",
    "ما هي عاصمة فرنسا؟ أجب بالعربية.",
    "เมืองหลวงของฝรั่งเศสคืออะไร",
    "फ्रांस की राजधानी क्या है? हिंदी में उत्तर दें।",
    f"Repeat: {HARD_TEXTS[8]}",
    "Repeat these five times: 👨\u200d👩\u200d👧\u200d👦 🇰🇷 👍🏽",
    "Write a Python function that adds two numbers.",
    "Write JSON with three keys, indented by four spaces.",
    "Repeat exactly: a    b        c                d",
    "Écris une phrase avec des accents: é è ê ë à ç ù.",
    "List ten Greek letters by symbol: α β γ",
    "Напиши по-русски: столица Франции.",
    "Draw a table with | and spaces.",
    "Count from one to thirty.",
]


def test_streams_at_once_equal_the_whole_answers(server: Server) -> None:
    bodies = [{"messages": user(q), "max_tokens": 24} for q in QUESTIONS]
    whole = ask_all(server, bodies)
    streams = server.streams([{**body, "stream": True} for body in bodies])
    for chunks, answer in zip(streams, whole, strict=True):
        assert len(chunks) > 1
        assert joined(chunks) == answer["text_output"]
        assert not any("finish_reason" in c for c in chunks[:-1])
        assert chunks[-1]["finish_reason"].item().decode() == answer["finish_reason"]
        assert chunks[-1]["num_output_tokens"].item() == answer["num_output_tokens"]


@pytest.fixture(scope="module")
def oracle(smollm2: Path) -> Any:
    """Model and tokenizer of transformers, in float32 like the server on a CPU."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return (
        AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32),
        AutoTokenizer.from_pretrained(smollm2),
    )


def test_greedy_equals_transformers_generate(server: Server, oracle: Any) -> None:
    model, tokenizer = oracle
    prompts = ["Once upon a time", "def fibonacci(n):", "The three primary colours are"]
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids.input_ids.size(1) :]
        answer = server.ask({"text_input": prompt, "max_tokens": 24})
        assert answer["text_output"] == tokenizer.decode(out, skip_special_tokens=True)
        eos = model.generation_config.eos_token_id
        assert answer["num_output_tokens"] == int((out != eos).sum())


def test_log_probs_equal_transformers(server: Server, oracle: Any) -> None:
    model, tokenizer = oracle
    ids = tokenizer("Once upon a time", return_tensors="pt")
    out = model.generate(
        **ids, max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    expected = model.compute_transition_scores(out.sequences, out.logits, normalize_logits=True)
    answer = server.ask(
        {"text_input": "Once upon a time", "max_tokens": 8, "return_log_probs": True}
    )
    assert answer["output_log_probs"] == pytest.approx(expected[0].tolist(), abs=1e-3)
    assert answer["cum_log_probs"] == pytest.approx(expected.sum().item(), abs=1e-2)


def test_messages_give_the_ids_of_apply_chat_template(server: Server, oracle: Any) -> None:
    messages = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Hi!"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "안녕 👋🏽"},
    ]
    expected = oracle[1].apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert server.preprocess({"messages": json.dumps(messages)})["INPUT_ID"][0].tolist() == expected


BAD: dict[str, tuple[Any, str]] = {
    "empty prompt": ({"text_input": ""}, "the prompt is empty"),
    "max_tokens 0": ({"text_input": "a", "max_tokens": 0}, "max_tokens is 0"),
    "max_tokens -1": ({"text_input": "a", "max_tokens": -1}, "max_tokens is -1"),
    "max_tokens beyond": (
        {"text_input": "a", "max_tokens": 8192},
        "may be at most 8191",
    ),
    "prompt too long": ({"text_input": "a b " * 8000}, "shorten the prompt"),
    "not JSON": ({"messages": "hello"}, "messages is not JSON"),
    "no role": ({"messages": '[{"content": "x"}]'}, "messages[0] has no role"),
    "unknown role": ({"messages": '[{"role": "bot", "content": "x"}]'}, "has the role 'bot'"),
    "temperature": ({"text_input": "a", "temperature": -1.0}, "temperature is -1"),
    "top_p": ({"text_input": "a", "top_p": 2.0}, "top_p is 2"),
    "top_k": ({"text_input": "a", "top_k": -3}, "top_k is -3; it must be at least 0"),
    "min_p": ({"text_input": "a", "min_p": 1.5}, "min_p is 1.5; it must be between 0 and 1"),
    "repetition_penalty": (
        {"text_input": "a", "repetition_penalty": 0.0},
        "repetition_penalty is 0",
    ),
    "min_tokens": ({"text_input": "a", "max_tokens": 2, "min_tokens": 3}, "min_tokens is 3"),
    "two seeds": ({"text_input": "a", "seed": 1, "random_seed": 2}, "both mean the same"),
    "invalid UTF-8": (b'{"text_input": "a\xff"}', "text_input is not valid UTF-8"),
    "unknown parameter": ({"text_input": "a", "max_token": 5}, "did you mean 'max_tokens'?"),
    "in parameters": ({"text_input": "a", "parameters": {"foo": 5}}, "unknown parameter 'foo'"),
    "several whole answers": (
        {"text_input": "a", "num_return_sequences": 2},
        "num_return_sequences is 2, but a response without stream holds one answer; send stream",
    ),
    "beams": ({"text_input": "a", "beam_width": 4}, "beam_width is 4"),
    "both prompts": ({"text_input": "a", "messages": user("b")}, "send one of them"),
    "end_id": ({"text_input": "a", "end_id": 10**6}, "end_id"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_400(server: Server, name: str) -> None:
    body, message = BAD[name]
    status, answer = server.generate(body)
    assert status == 400, answer
    assert message in answer["error"]
    assert "\n" not in answer["error"]
    assert "Traceback" not in answer["error"]


def test_neighbours_of_bad_requests_are_answered(server: Server) -> None:
    """All requests at once: each bad one gets its 400, each good one its answer."""
    barrier = threading.Barrier(2 * len(BAD))

    def send(body: Any) -> tuple[int, Any]:
        barrier.wait()
        return server.generate(body)

    with ThreadPoolExecutor(2 * len(BAD)) as pool:
        bad = [pool.submit(send, body) for body, _ in BAD.values()]
        good = [pool.submit(send, FRANCE) for _ in BAD]
        for future, (_, message) in zip(bad, BAD.values(), strict=True):
            status, answer = future.result()
            assert status == 400
            assert message in answer["error"]
        for future in good:
            status, answer = future.result()
            assert (status, answer["text_output"]) == (200, "The capital of France is Paris.")


def test_a_bad_row_fails_its_request_and_no_other(server: Server) -> None:
    status, answer = server.generate({"text_input": ["good", ""], "max_tokens": [2, 2]})
    assert status == 400
    assert "the prompt is empty" in answer["error"]
    both = server.ask({"text_input": ["Once upon a", "def f("], "max_tokens": [4, 4]})
    alone = [server.ask({"text_input": t, "max_tokens": 4}) for t in ("Once upon a", "def f(")]
    assert both["text_output"] == [a["text_output"] for a in alone]


def test_seed_gives_the_same_text_alone_and_among_others(server: Server) -> None:
    body = {"text_input": "Once upon a time", "max_tokens": 24, "temperature": 1.0, "seed": 7}
    alone = server.ask(body)["text_output"]
    others = [{**body, "seed": seed} for seed in range(100, 107)]
    with ThreadPoolExecutor(8) as pool:
        first, *rest = pool.map(server.ask, [body, *others])
    assert first["text_output"] == alone
    assert len({r["text_output"] for r in rest}) > 1


def test_min_p_reaches_the_engine(server: Server) -> None:
    """min_p 1 leaves only the most probable token; the seed shows that the rest is sampling."""
    body = {"text_input": "Once upon a time", "max_tokens": 24}
    hot = {**body, "temperature": 2.0, "seed": 7}
    greedy, sampled, narrow = (
        answer["text_output"] for answer in ask_all(server, [body, hot, {**hot, "min_p": 1.0}])
    )
    assert narrow == greedy != sampled


def test_several_sequences_equal_requests_with_the_seeds_that_follow(server: Server) -> None:
    """Each ends at a stop string that the engine does not see, and is cancelled separately."""
    body = {"text_input": "Once upon a time", "max_tokens": 100, "temperature": 1.0, "seed": 7,
            "stop_words": ["e t"]}  # fmt: skip

    def read(events: list[dict[str, Any]], index: int) -> tuple[str, str, int]:
        assert {event.get("sequence_index", 0) for event in events} == {index}
        ended = [event for event in events if "finish_reason" in event]
        assert len(ended) < 30, "the engine must be cancelled"
        text = "".join(event["text_output"] for event in events)
        return text, ended[0]["finish_reason"], ended[0]["num_output_tokens"]

    with ThreadPoolExecutor(3) as pool:
        alone = [
            read(events, 0)
            for events in pool.map(server.sse, [{**body, "seed": seed} for seed in (7, 8, 9)])
        ]
    assert len({count for *_, count in alone}) > 1
    got: list[list[dict[str, Any]]] = [[], [], []]
    for event in server.sse({**body, "num_return_sequences": 3}):
        got[event["sequence_index"]].append(event)
    assert [read(events, index) for index, events in enumerate(got)] == alone


def test_stop_strings_cut_the_text(server: Server) -> None:
    body = {"text_input": "Count: 1, 2, 3, 4,", "max_tokens": 40}
    cases = [(stop, include) for stop in ("7", ", 8", "9, 1") for include in (False, True)]
    bodies = [{"stop_words": [stop], "include_stop_str_in_output": i} for stop, i in cases]
    whole, *answers = ask_all(server, [body, *({**body, **more} for more in bodies)])
    for (stop, include), answer in zip(cases, answers, strict=True):
        assert stop in whole["text_output"]
        cut = whole["text_output"].split(stop)[0] + (stop if include else "")
        assert (answer["text_output"], answer["finish_reason"]) == (cut, "stop")


def test_bad_words_do_not_appear(server: Server) -> None:
    answer = server.ask({**FRANCE, "bad_words": ["Paris"]})
    assert answer["text_output"]
    assert "Paris" not in answer["text_output"]


def test_min_tokens_and_end_id(server: Server) -> None:
    assert server.ask({**FRANCE, "min_tokens": 12})["num_output_tokens"] >= 12
    endless = server.ask({**FRANCE, "end_id": -1, "max_tokens": 20})
    assert endless["num_output_tokens"] == 20
    assert endless["finish_reason"] == "length"


def test_prompt_is_echoed_only_when_asked(server: Server) -> None:
    body = {"text_input": "Once upon a time", "max_tokens": 4}
    quiet = server.ask(body)["text_output"]
    echoed = server.ask({**body, "exclude_input_in_output": False})["text_output"]
    assert echoed == f"Once upon a time{quiet}"


def test_sixty_four_streams_and_a_client_that_leaves(server: Server) -> None:
    """The other texts are exact, and the engine stops generating for the client that left."""
    bodies = [{"text_input": f"The number {n} is", "max_tokens": 6} for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        whole = [answer["text_output"] for answer in pool.map(server.ask, bodies)]
    endless = {"text_input": "Count", "max_tokens": 4000, "min_tokens": 4000, "stream": True}
    url = f"{server.http}/v2/models/ensemble/generate_stream"
    with urllib.request.urlopen(url, data=json.dumps(endless).encode()) as response:
        assert response.readline().startswith(b"data:")
        streams = server.streams([{**body, "stream": True} for body in bodies * 4])
    assert [joined(chunks) for chunks in streams] == whole * 4
    deadline = time.monotonic() + 20
    while server.metric("trt_tokenizers:engine_sequences_running"):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_no_context_is_left(server: Server) -> None:
    """Neither after an answer, nor after a request that the engine refuses."""
    before = server.contexts()
    server.ask(FRANCE)
    server.generate({"text_input": "a", "temperature": -1.0})
    assert server.contexts() == before


def test_metrics_count_tokens_and_time(server: Server) -> None:
    names = ("prompt_tokens_total", "generation_tokens_total", "request_success_total",
             "time_to_first_token_seconds_count", "requests_total",
             "request_errors_total")  # fmt: skip

    def read() -> dict[str, float]:
        return {name: server.metric(f"trt_tokenizers:{name}") for name in names}

    time.sleep(1.2)  # until earlier counts have been handed over
    before = read()
    server.streams([{**FRANCE, "stream": True}])
    server.ask(FRANCE)
    server.generate({"text_input": ""})
    time.sleep(1.2)
    after = read()
    assert {name: after[name] - before[name] for name in names} == {
        "prompt_tokens_total": 2 * 37, "generation_tokens_total": 2 * 7,
        "request_success_total": 2, "time_to_first_token_seconds_count": 1,
        "requests_total": 3, "request_errors_total": 1,
    }  # fmt: skip
    assert server.metric("trt_tokenizers:num_requests_running") == 0


def test_embedding_bias_changes_the_answer(server: Server) -> None:
    body = {
        "messages": '[{"role": "user", "content": "What is the capital of France?"}]',
        "max_tokens": 8,
    }
    assert server.ask(body)["text_output"].count(" the") < 4
    biased = {**body, "embedding_bias_words": [" the"], "embedding_bias_weights": [100.0]}
    assert server.ask(biased)["text_output"].count(" the") == 8


TEXTS = ["Once upon a time", "def fibonacci(n):", "Count: 1, 2, 3, 4,", "안녕하세요",
         "The three primary colours are"]  # fmt: skip
MESSAGES = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Answer in Korean."}, {"role": "user", "content": "Hi 👋🏽"}],
    [{"role": "user", "content": "List three colours, one in each line."}],
]
SEEDED = {"temperature": 1.0, "seed": 7}
KINDS: list[dict[str, Any]] = [
    {},
    {**SEEDED, "top_p": 0.9},
    {**SEEDED, "top_k": 20, "repetition_penalty": 1.2, "return_log_probs": True},
    {"stop_words": ["\n", " the", "5"]},
    {"stop_words": [", 8", "e t", "is"], "include_stop_str_in_output": True},
    {"exclude_input_in_output": False, "min_tokens": 4, "bad_words": ["Paris"]},
]
BODIES: list[dict[str, Any]] = [
    {**prompt, **kind, "max_tokens": 8 + number % 5}
    for number, kind in enumerate(KINDS)
    for prompt in (*({"text_input": p} for p in TEXTS), *({"messages": m} for m in MESSAGES))
]
BODIES += [
    {"text_input": "a", "max_tokens": 0},
    {"messages": [{"content": "x"}]},
]


def sent(body: dict[str, Any]) -> dict[str, Any]:
    """*body* as HTTP takes it: messages are JSON text."""
    return {key: json.dumps(v) if key == "messages" else v for key, v in body.items()}


@pytest.fixture(scope="module")
def pipeline(server: Server) -> Iterator[Pipeline]:
    """The ensemble of the server's repository, in this process."""
    if "TRT_TOKENIZERS_VERIFY" in os.environ:
        pytest.skip("not applicable: the server's engine has the whole GPU")
    with Pipeline.from_repository(server.log.with_name("repo")) as pipeline:
        yield pipeline


@pytest.mark.filterwarnings("ignore")  # vLLM's and torch's own
def test_fifty_answers_of_a_pipeline_are_the_servers(
    request: pytest.FixtureRequest, server: Server, pipeline: Pipeline
) -> None:
    assert len(BODIES) == 50
    # The double of TensorRT-LLM is slow, and generates with transformers as well.
    bodies = BODIES[::5] if request.node.callspec.params["server"] == "llmapi" else BODIES
    with ThreadPoolExecutor(16) as pool:
        theirs = list(pool.map(lambda body: server.generate(sent(body)), bodies))
    texts = set()
    for (status, answer), ours in zip(theirs, pipeline.generate_batch(bodies), strict=True):
        if isinstance(ours, Exception):
            assert status == 400
            assert answer["error"] == f"in ensemble 'ensemble', {ours}"
            continue
        assert status == 200, answer
        shown = ours.outputs()
        names = ("text_output", "finish_reason", "num_input_tokens", "num_output_tokens")
        assert {name: answer[name] for name in names} == {name: shown[name] for name in names}
        if "output_log_probs" in shown:
            expected = pytest.approx(answer["output_log_probs"], abs=1e-3)
            assert shown["output_log_probs"] == expected
        texts.add(ours.text)
    assert len(texts) > len(bodies) / 2


@pytest.mark.filterwarnings("ignore")  # vLLM's and torch's own
def test_several_answers_and_streams_of_a_pipeline_are_the_servers(
    server: Server, pipeline: Pipeline
) -> None:
    body = {"text_input": "Once upon a time", "max_tokens": 16, "num_return_sequences": 3, **SEEDED}
    theirs = ["", "", ""]
    for event in server.sse(body):
        theirs[event["sequence_index"]] += event["text_output"]
    first = pipeline.generate(body)
    assert [first.text, *(other.text for other in first.others)] == theirs
    assert len(set(theirs)) == 3
    streamed = {"messages": MESSAGES[0], "max_tokens": 16, "stop_words": ["al o"]}
    parts: list[Answer] = list(pipeline.stream(streamed))
    text = "".join(event["text_output"] for event in server.sse(sent(streamed)))
    assert "".join(part.text for part in parts) == text == "The capit"
