"""Templates that requests bring to a real Triton: each is a 400, and nobody else notices."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Server, descendants, generate_replay, launched

pytestmark = pytest.mark.triton

#: Searches, numbers and values that grow within one expression, and a loop that only time ends.
WORST = {
    "search": "{% set a = 'a' * 2000000 %}{{ a.rfind('ab' + 'a' * 1000000) }}",
    "folding": "{{ 1 | round(-10000000) }}",
    "nested": "{% set o = namespace(x=1) %}{% for i in range(40) %}"
    "{% set o.x = namespace(a=o.x, b=o.x) %}{% endfor %}{{ o.x }}",
    "loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
}
HI = json.dumps([{"role": "user", "content": "hi"}])


@pytest.fixture(scope="module")
def allowing(sentencepiece_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile")
    repository = generate_replay(
        folder / "repo", sentencepiece_dir, "--tokenizer-type", "llama", "--template", "chatml",
        "--set", "allow_request_templates=true",
    )  # fmt: skip
    with launched(repository, folder) as server:
        yield server


def own(source: str) -> dict[str, object]:
    return {"messages": HI, "chat_template_kwargs": json.dumps({"chat_template": source})}


def ask(server: Server, source: str) -> tuple[float, str]:
    started = time.monotonic()
    status, answer = server.generate(own(source))
    assert status == 400, answer
    return time.monotonic() - started, answer["error"]


@pytest.mark.parametrize("name", WORST)
def test_the_worst_are_refused_in_time(allowing: Server, name: str) -> None:
    processes = descendants(allowing.process.pid)
    took, error = ask(allowing, WORST[name])
    assert took < 3, "a second, and two for a busy machine"
    assert "template 'chat_template'" in error
    assert allowing.ask({**own("good {{ messages[0].content }}"), "max_tokens": 50})
    assert descendants(allowing.process.pid) == processes, "the same models"


def test_other_requests_are_served_meanwhile(allowing: Server) -> None:
    """By the other instance of preprocessing."""
    refused: list[tuple[float, str]] = []

    def attack() -> None:
        refused.extend(ask(allowing, WORST["loop"]) for _ in range(3))

    attacker = threading.Thread(target=attack)
    attacker.start()
    served, longest = 0, 0.0
    while attacker.is_alive():
        started = time.monotonic()
        allowing.ask({"messages": HI, "max_tokens": 8})
        longest = max(longest, time.monotonic() - started)
        served += 1
    attacker.join()
    assert len(refused) == 3
    assert all("template 'chat_template'" in error for _, error in refused)
    assert served > 3 * len(refused)
    assert longest < min(took for took, _ in refused), "none waited for a hostile one"
    assert allowing.process.poll() is None
