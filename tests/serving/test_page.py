"""The page of the OpenAI process, in a headless Chromium.

TRT_TOKENIZERS_SCREENSHOTS=docs writes the pictures of docs/.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from applicable import needs_engine
from harness import Server, free_ports, generate, launched
from replayed_answers import END, generate_replayed_answers

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = [
    pytest.mark.triton,
    pytest.mark.model,
    pytest.mark.skipif(
        not BROWSER,
        reason="not applicable: there is no Chromium; scripts/browser installs Debian's",
    ),
    pytest.mark.skipif(
        "TRT_TOKENIZERS_VERIFY" in os.environ,
        reason="not applicable: the page does not see engines",
    ),
]
playwright = pytest.importorskip(
    "playwright.sync_api",
    reason="not applicable: pip install 'trt-tokenizers[test]' has playwright",
)
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
expect = playwright.expect

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
#: Without these Chromium asks Google's hosts at its start.
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
TOOL = {"type": "function", "function": {"name": "write", "parameters": {"type": "object"}}}
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(
            executable_path=BROWSER, args=QUIET, chromium_sandbox=os.geteuid() != 0
        )
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a page; at the end it has asked its own server only and has logged no error."""
    asked: list[tuple[str, str]] = []
    errors: list[str] = []
    contexts = []

    def open_(url: str, *, models: bool = True, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: asked.append((request.url, url)))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto(url)
        if models:
            expect(page.get_by_role("combobox", name="Model")).to_have_value("ensemble")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert asked
    assert [url for url, own in asked if not url.startswith(own)] == []
    # Chromium logs each answer that is no 200; a broken Content-Security-Policy has another text.
    assert [each for each in errors if not each.startswith("Failed to load resource")] == []


@pytest.fixture(scope="module")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """SmolLM2 and the page's address."""
    needs_engine()
    folder = tmp_path_factory.mktemp("page")
    repository = generate(folder / "repo", "--engine", "transformers", "--model", str(smollm2))
    (port,) = free_ports(1)
    with launched(repository, folder, "--openai-port", str(port)) as server:
        yield server, f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def url(server: tuple[Server, str]) -> str:
    return server[1]


@pytest.fixture(scope="module")
def replay(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An engine that answers with the question."""
    folder = tmp_path_factory.mktemp("page-replay")
    repository = generate_replayed_answers(folder, bpe_dir)
    (port,) = free_ports(1)
    with launched(repository, folder, "--openai-port", str(port)):
        yield f"http://127.0.0.1:{port}/"


def post(url: str, path: str, body: Any) -> Any:
    data = json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"{url}{path}", data=data) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        return json.load(error)


def send(page: Any, text: str) -> Any:
    """Send a message by keyboard; the answer to it."""
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")
    return page.get_by_role("article", name="Answer of").last


def finish(answer: Any, why: str) -> None:
    expect(figure(answer, "finish")).to_have_text(why, timeout=30_000)


def figure(answer: Any, name: str) -> Any:
    return answer.locator(f"[data-figure={name}]")


def text(answer: Any) -> str:
    return str(answer.locator(".body > .text").text_content())


def ids(answer: Any, name: str) -> list[int]:
    """The token ids shown in the list *name*."""
    tokens = answer.get_by_role("listbox", name=f"{name} tokens").get_by_role("option")
    return [int(each.get_attribute("data-id")) for each in tokens.all()]


def test_a_whole_chat(open_page: Open, url: str) -> None:
    page = open_page(url)
    page.get_by_label("Temperature").fill("0")
    answer = send(page, QUESTION)
    finish(answer, "stop")
    assert text(answer) == ANSWER
    assert figure(answer, "prompt").text_content() == "37 tokens"
    assert figure(answer, "answer").text_content() == "7 tokens"
    assert re.fullmatch(r"[\d.]+ m?s", figure(answer, "first").text_content())
    assert re.fullmatch(r"[\d.]+ tokens/s", figure(answer, "speed").text_content())
    page.get_by_label("System prompt").fill("You are brief.")
    second = send(page, "And of Italy?")
    expect(second.locator(".inspect h3").first).to_contain_text("begins with BOS")
    prompt = second.get_by_role("listbox", name="Prompt tokens").text_content()
    for part in ("You are brief.", QUESTION, ANSWER, "And of Italy?"):
        assert part in prompt
    finish(second, "stop")
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("article")).to_have_count(0)


def test_tokens_of_the_prompt_and_of_the_answer(open_page: Open, url: str) -> None:
    page = open_page(url)
    page.get_by_label("Temperature").fill("0")
    answer = send(page, QUESTION)
    finish(answer, "stop")
    messages = [{"role": "user", "content": QUESTION}]
    expect(answer.get_by_role("listbox", name="Answer tokens")).to_have_text(ANSWER)
    assert ids(answer, "Prompt") == post(url, "tokenize", {"messages": messages})["tokens"]
    assert post(url, "detokenize", {"tokens": ids(answer, "Answer")})["prompt"] == ANSWER
    prompt = answer.get_by_role("listbox", name="Prompt tokens")
    assert prompt.text_content() == post(url, "render", {"messages": messages})["prompt"]
    first = prompt.get_by_role("option").first
    assert first.get_attribute("aria-label") == (
        'Token 1, Id 1, Text "<|im_start|>", Bytes 3c 7c 69 6d 5f 73 74 61 72 74 7c 3e, '
        "Kind BOS, begins the prompt"
    )
    card = page.get_by_role("tooltip")
    answer.get_by_role("option", name='Text " Paris"').hover()
    expect(card).to_contain_text("20 50 61 72 69 73")
    page.mouse.move(0, 0)
    expect(card).to_be_hidden()
    first.focus()
    page.keyboard.press("ArrowRight")
    expect(card).to_contain_text('"system"')
    page.keyboard.press("End")
    expect(card).to_contain_text(r'"\n"')
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()


def test_stop_and_retry(open_page: Open, server: tuple[Server, str]) -> None:
    page = open_page(server[1])
    page.get_by_label("Temperature").fill("0")
    answer = send(page, "Write a long story about the sea.")
    expect(figure(answer, "speed")).to_be_visible()
    page.keyboard.press("Escape")
    finish(answer, "stopped")
    began = text(answer)
    assert began
    deadline = time.monotonic() + 10
    while server[0].contexts() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server[0].contexts() == 0  # the engine has stopped too
    page.get_by_label("Max tokens").fill("4")
    page.get_by_role("button", name="Retry").click()
    again = page.get_by_role("article", name="Answer of")
    finish(again, "length")
    expect(again).to_have_count(1)
    assert began.startswith(text(again)) or text(again).startswith(began)
    assert figure(again, "answer").text_content() == "4 tokens"


def test_a_token_takes_its_card_along(open_page: Open, replay: str) -> None:
    page = open_page(replay, viewport={"width": 900, "height": 400})
    card = page.get_by_role("tooltip")
    for button in ("Retry", "New chat"):
        page.get_by_role("textbox", name="Message").fill("a\n" * 20)
        page.keyboard.press("Enter")
        finish(page.get_by_role("article", name="Answer of").last, "length")
        page.locator(".token").first.hover()
        expect(card).to_be_visible()
        page.get_by_role("button", name=button).press("Enter")
        expect(card).to_be_hidden()


def test_an_error_is_shown_as_its_text(open_page: Open, url: str) -> None:
    page = open_page(url)
    page.get_by_label("Tools", exact=True).fill(json.dumps([TOOL]))
    answer = send(page, QUESTION)
    messages = [{"role": "user", "content": QUESTION}]
    refused = post(url, "v1/chat/completions", {
        "model": "ensemble", "messages": messages, "tools": [TOOL],
    })  # fmt: skip
    expect(answer.get_by_role("alert")).to_contain_text(refused["error"]["message"])
    expect(answer.get_by_role("alert")).to_contain_text("400")
    page.get_by_label("Tools", exact=True).fill("[{")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#tools-error")).to_contain_text("This is not JSON")
    expect(page.get_by_label("Tools", exact=True)).to_be_focused()
    page.get_by_label("Tools", exact=True).fill("")
    page.get_by_label("JSON schema").fill('{"type": "string", "enum": ["Paris"]}')
    page.get_by_role("button", name="Retry").click()
    answer = page.get_by_role("article", name="Answer of")
    finish(answer, "stop")
    assert text(answer) == '"Paris"'


def test_a_token_may_be_a_part_of_a_character(open_page: Open, replay: str) -> None:
    page = open_page(replay)
    answer = send(page, "a𝄞b")
    finish(answer, "length")
    tokens = answer.get_by_role("listbox", name="Answer tokens").get_by_role("option")
    expect(tokens.nth(2)).to_be_visible()
    pieces = tokens.all_text_contents()
    assert bytes.fromhex("".join(pieces[1:-1])).decode() == "𝄞"
    tokens.nth(1).focus()
    expect(page.get_by_role("tooltip")).to_contain_text("part of 𝄞")
    expect(tokens.nth(1)).to_have_attribute("aria-label", re.compile("part of 𝄞, Bytes f0"))


def test_the_end_of_the_text_stays_in_sight(open_page: Open, replay: str) -> None:
    page = open_page(replay, viewport={"width": 900, "height": 500})
    answer = send(page, "\n".join(f"line {number}" for number in range(60)))
    finish(answer, "length")
    expect(answer.get_by_role("button", name="Retry")).to_be_in_viewport()


@pytest.mark.parametrize(
    "written", ["안녕하세요 👍🏽\n\t한국어 é 𝄞", "<img src=x onerror=alert(1)><b>&amp;"]
)
def test_text_is_streamed_exactly_and_stays_text(
    open_page: Open, replay: str, written: str
) -> None:
    page = open_page(replay)
    answer = send(page, written)
    finish(answer, "length")
    assert text(answer) == written
    assert page.locator("img").count() == 1  # the page's sign
    sent = post(replay, "tokenize", {"prompt": written})["tokens"]
    expect(answer.get_by_role("listbox", name="Answer tokens").get_by_role("option")).to_have_count(
        len(sent)
    )
    assert ids(answer, "Answer") == sent


def test_reasoning_and_calls_are_folded(open_page: Open, replay: str) -> None:
    page = open_page(replay)
    page.get_by_label("Tools", exact=True).fill(json.dumps([TOOL]))
    arguments = {"text": '안녕 👍🏽 {"a": [1]}'}
    call = json.dumps({"name": "write", "arguments": arguments}, ensure_ascii=False)
    answer = send(page, f"<think>\nwell\n</think>\n\n<tool_call>\n{call}\n</tool_call>{END}")
    finish(answer, "tool_calls")
    reasoning, called = answer.locator("details.fold").all()
    assert reasoning.get_attribute("open") is None
    expect(reasoning.locator(".text")).to_be_hidden()
    reasoning.get_by_text("Reasoning").click()
    expect(reasoning.locator(".text")).to_be_visible()
    assert reasoning.locator(".text").text_content().strip() == "well"
    called.get_by_text("Tool call: write").click()
    assert json.loads(called.locator("pre").text_content()) == arguments
    called.get_by_label("Result of write").fill("It is written.")
    page.get_by_role("button", name="Send the results").click()
    last = page.get_by_role("article", name="Answer of").last
    finish(last, "length")
    assert text(last) == "It is written."


def test_a_server_without_token_ids_is_served_too(open_page: Open, replay: str) -> None:
    why = "return_token_ids is not served: the ensemble has no output 'token_ids'; leave it out"

    def refuse(route: Any) -> None:
        if "return_token_ids" in route.request.post_data_json:
            error = {"message": why, "param": "return_token_ids"}
            route.fulfill(status=400, json={"error": error})
        else:
            route.continue_()

    page = open_page(replay)
    page.route("**/v1/chat/completions", refuse)
    for _ in range(2):
        answer = send(page, "hello")
        finish(answer, "length")
        assert text(answer) == "hello"
        expect(answer.locator(".inspect")).to_contain_text(why)
    page.unroute("**/v1/chat/completions")
    page.reload()
    unknown = {"error": {"message": "INSPECT is 'tokens'", "param": None}}
    page.route("**/detokenize", lambda route: route.fulfill(status=400, json=unknown))
    answer = send(page, "hello")
    finish(answer, "length")
    assert text(answer) == "hello"
    expect(answer.locator(".inspect")).to_have_count(1)
    expect(answer.locator(".inspect")).to_contain_text("INSPECT is 'tokens'")


def test_a_key_is_asked_for(open_page: Open, server: tuple[Server, str]) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "trt_tokenizers.cli.openai", "--triton", server[0].grpc]
    keys = {**os.environ, "TRT_TOKENIZERS_API_KEYS": "secret"}
    with subprocess.Popen([*command, "--port", str(port)], env=keys) as process:
        try:
            url = f"http://127.0.0.1:{port}/"
            wait_for(f"{url}health/ready")
            page = open_page(url, models=False)
            page.get_by_label("API key").fill("wrong")
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_contain_text("missing or wrong")
            expect(page.get_by_label("API key")).to_be_focused()
            page.get_by_label("API key").fill("secret")
            page.keyboard.press("Enter")
            expect(page.get_by_label("API key")).to_be_hidden()
            expect(page.get_by_role("combobox", name="Model")).to_have_value("ensemble")
            page.get_by_label("Max tokens").fill("2")
            finish(send(page, QUESTION), "length")
            stored = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
            assert stored == [0, 0, ""]
        finally:
            process.terminate()


def wait_for(address: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(address).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def test_all_by_keyboard(open_page: Open, replay: str) -> None:
    page = open_page(replay)
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    answer = page.get_by_role("article", name="Answer of")
    finish(answer, "length")
    assert text(answer) == "one\ntwo"
    expect(page.get_by_role("status")).to_contain_text("The answer has ended: length")
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        name, seen = page.evaluate(
            """(() => {
                const {activeElement: at, body} = document;
                const outline = (element) => getComputedStyle(element).outlineStyle;
                const name = at.id || at.innerText;
                return [name, at === body || [at, at.parentElement].map(outline).includes("solid")];
            })()"""
        )
        assert seen, f"no focus is seen: {name}"
        reached.append(name)
    for name in ("model", "new", "toggle-settings", "chat", "question", "send", "tools", "schema"):
        assert name in reached
    assert "Retry" in reached


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_everyone_can_use_it(open_page: Open, replay: str, scheme: str, width: int) -> None:
    page = open_page(replay, color_scheme=scheme, viewport={"width": width, "height": 740})
    no_problem(page)
    answer = send(page, f"<think>\nwell\n</think>{'word ' * 9}é{'x' * 99}")
    finish(answer, "length")
    if width == 360:
        answer.locator(".inspect > summary").click()
    answer.get_by_role("option").nth(3).focus()
    no_problem(page)
    page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 360:
        page.get_by_role("button", name="Settings").click()
        no_problem(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.keyboard.press("Shift+Tab")  # not to what the panel covers
        expect(page.get_by_role("button", name="Close")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Settings")).to_be_focused()


def no_problem(page: Any) -> None:
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.skipif(
    "TRT_TOKENIZERS_SCREENSHOTS" not in os.environ,
    reason="not applicable: it writes pictures, see the top of the file",
)
def test_screenshots(open_page: Open, url: str) -> None:
    for name, scheme in (("page.png", "light"), ("page-dark.png", "dark")):
        page = open_page(url, color_scheme=scheme, viewport={"width": 1280, "height": 800})
        page.get_by_label("Temperature").fill("0")
        answer = send(page, QUESTION)
        finish(answer, "stop")
        answer.get_by_role("option", name='Text " Paris"').hover()
        page.screenshot(path=Path(os.environ["TRT_TOKENIZERS_SCREENSHOTS"]) / name)
