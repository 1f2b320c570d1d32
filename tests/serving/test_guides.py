"""Guides through a real Triton: sampled answers follow them, and bad guides are refused.

benchmarks/guides.py does the same with all cases of `guided`.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from guided import CASES, SCHEMAS, body
from harness import Server, joined
from trt_tokenizers.cli.main import main

pytestmark = [
    pytest.mark.triton,
    pytest.mark.model,
    pytest.mark.skipif("TRT_TOKENIZERS_VERIFY" in os.environ, reason="the double has no guides"),
    pytest.mark.parametrize("server", ["transformers", "vllm"], indirect=True),
]
PREFIX = "in ensemble 'ensemble', "  # Triton's
SOME = CASES[::6]
FREE = SOME[::2]


def ask_all(server: Server, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(server.ask, bodies))


def test_sampled_answers_follow_their_guides(
    server: Server, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    """XGrammar, which vllm has, refuses a few of the guides."""
    engine = request.node.callspec.params["server"]
    with ThreadPoolExecutor(len(SOME)) as pool:
        answers = list(pool.map(server.generate, [body(case) for case in SOME]))
    refused = [answer["error"] for status, answer in answers if status != 200]
    assert len(refused) <= (len(SOME) / 4 if engine == "vllm" else 0), refused
    begin = f"{PREFIX}guided_decoding_guide is no "
    assert all(error.startswith(begin) for error in refused)
    finished = [
        (case, answer["text_output"])
        for case, (_, answer) in zip(SOME, answers, strict=True)
        if answer.get("finish_reason") == "stop"
    ]
    assert len(finished) > 0.7 * len(SOME)
    assert [(case[2], text) for case, text in finished if not case[3](text)] == []
    free = ask_all(server, [{**body(case, guided=False), "max_tokens": 40} for case in FREE])
    right = sum(case[3](answer["text_output"]) for case, answer in zip(FREE, free, strict=True))
    assert right < len(FREE) / 4
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{engine}: {len(SOME)} guides, {len(refused)} refused; {len(finished)} answers "
            "finished, all valid; "
            f"without a guide {right} of {len(FREE)} were valid"
        )


def test_whole_streamed_alone_and_among_others(server: Server) -> None:
    """All schemas with one seed: each of the three times an answer has other neighbours.

    At most 32 at once: vLLM on a CPU ends if a prompt with a seed needs two steps.
    """
    asked = [{**body(case), "max_tokens": 16} for case in CASES if case[1] == "json_schema"]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(server.generate, asked))
    bodies = [each for each, (status, _) in zip(asked, found, strict=True) if status == 200]
    whole = [answer["text_output"] for status, answer in found if status == 200]
    assert len(whole) > 40
    for half in (slice(None, None, 2), slice(1, None, 2)):
        streams = server.streams([{**each, "stream": True} for each in bodies[half]])
        assert [joined(chunks) for chunks in streams] == whole[half]
    alone = slice(None, None, 12)
    assert [server.ask(each)["text_output"] for each in bodies[alone]] == whole[alone]


@pytest.mark.parametrize(
    ("kind", "guide"),
    [
        ("json_schema", '{"type": "strin"}'),
        ("json_schema", '{"type": '),
        ("regex", "a(b"),
        ("ebnf_grammar", 'root ::= "a" b'),
        ("structural_tag", '{"format": {"type": "no"}}'),
        ("structural_tag", "{"),
        ("xml", "a"),
    ],
)
def test_a_guide_that_does_not_compile_is_refused(server: Server, kind: str, guide: str) -> None:
    asked = {"text_input": "a", "guided_decoding_guide_type": kind, "guided_decoding_guide": guide}
    status, answer = server.generate(asked)
    assert status == 400
    assert answer["error"].removeprefix(PREFIX).startswith("guided_decoding_guide")


def test_a_stop_string_and_max_tokens(server: Server) -> None:
    asked = {"text_input": "A", "guided_decoding_guide_type": "regex", "max_tokens": 40}
    answer = server.ask({**asked, "guided_decoding_guide": "a{3}END.{9}", "stop_words": ["END"]})
    assert (answer["text_output"], answer["finish_reason"]) == ("aaa", "stop")
    answer = server.ask({**asked, "guided_decoding_guide": "(ab)+", "max_tokens": 3})
    assert answer["finish_reason"] == "length"
    assert set(answer["text_output"]) == {"a", "b"}
    assert json.loads(server.ask({**asked, "guided_decoding_guide": r"\{\}"})["text_output"]) == {}


def test_chat_prints_only_what_follows_its_schema(server: Server, tmp_path: Path) -> None:
    path, schema = tmp_path / "schema.json", SCHEMAS["sentiment"]
    path.write_text(json.dumps(schema))
    chat = ["chat", "--url", server.http, "--schema", str(path), "--seed", "1", "--max-tokens"]
    done = CliRunner().invoke(main, [*chat, "20"], input="How do you feel?\nAnd now?\n")
    assert done.exit_code == 0, done.output
    assert {json.loads(line) for line in done.stdout.splitlines()} <= {
        *SCHEMAS["sentiment"]["enum"]
    }
    done = CliRunner().invoke(main, [*chat, "1"], input="How do you feel?\n")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the answer was cut by max_tokens = 1; raise max_tokens")
