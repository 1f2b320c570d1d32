"""The client and the chat, against a small HTTP server that answers like Triton."""

from __future__ import annotations

import http.server
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from harness import free_ports
from trt_tokenizers.cli.chat import Chat, run_chat
from trt_tokenizers.client import generate, stream
from trt_tokenizers.errors import EngineError, RequestError, SettingsError
from trt_tokenizers.processing.answer_schema import AnswerSchema

TEXT = "naïve 日本 🙂\u2028x"


class Handler(http.server.BaseHTTPRequestHandler):
    """``text_input`` or the last message selects the answer."""

    protocol_version = "HTTP/1.1"
    bodies: list[dict[str, object]]
    cancelled: threading.Event

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append({"path": self.path, **body})
        messages = json.loads(body.get("messages", "[]"))
        text = body.get("text_input") or messages[-1]["content"]
        if text.startswith("status "):
            _, status, answer = text.split(" ", 2)
            self.whole(int(status), answer.encode())
        elif self.path.endswith("/generate"):
            self.whole(200, json.dumps({"text_output": TEXT}, ensure_ascii=False).encode())
        else:
            self.stream(text)

    def whole(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pieces = [TEXT[:7], TEXT[7:]] if text != "endless" else ["again "] * 1000
        answers = [{"text_output": piece} for piece in pieces]
        if text.startswith("["):
            answers = json.loads(text)
        try:
            for answer in answers:
                event = f"data: {json.dumps(answer, ensure_ascii=False)}\n\n"
                data = event.encode()
                for number in range(len(data)):  # one chunk per byte splits characters
                    self.chunk(data[number : number + 1])
                if text == "endless":
                    time.sleep(0.01)
            if text == "late":
                self.chunk(b'data: {"error":"engine\\ndied"}\n\n')
            self.chunk(b"")
        except OSError:
            self.cancelled.set()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, *args: object) -> None: ...


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.bodies: list[dict[str, object]] = []
        self.cancelled = threading.Event()
        handler = type("H", (Handler,), {"bodies": self.bodies, "cancelled": self.cancelled})
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_whole_answer(server: Server) -> None:
    assert generate(server.url + "/", {"text_input": "hi"}, model="m") == {"text_output": TEXT}
    assert server.bodies == [{"path": "/v2/models/m/generate", "text_input": "hi"}]


def test_a_streamed_answer_with_split_characters(server: Server) -> None:
    pieces = [a["text_output"] for a in stream(server.url, {"text_input": "hi"})]
    assert pieces == [TEXT[:7], TEXT[7:]]
    assert server.bodies[0]["path"] == "/v2/models/ensemble/generate_stream"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ('status 400 {"error":"max_tokens is 0;\\nmust be 1"}', RequestError,
         "HTTP 400: max_tokens is 0; must be 1"),
        ('status 400 data: {"error":"refused"}\n\n', RequestError, "HTTP 400: refused"),
        ("status 404 plain words", RequestError, "HTTP 404: plain words"),
        ('status 503 {"error":"Server is stopping"}', EngineError, "HTTP 503: Server is stopping"),
        ("status 500 []", EngineError, "HTTP 500: []"),
    ],
)  # fmt: skip
def test_refusals(server: Server, text: str, kind: type[Exception], message: str) -> None:
    for ask in (generate, lambda url, body: list(stream(url, body))):
        with pytest.raises(kind) as caught:
            ask(server.url, {"text_input": text})
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('status 200 {"error":"exactly 1 response"}', "exactly 1 response"),
        ("status 200 no json", "something other than a JSON object: b'no json'"),
    ],
)
def test_failures_with_status_200(server: Server, text: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        generate(server.url, {"text_input": text})


def test_an_error_in_the_middle_of_a_stream(server: Server) -> None:
    answers = stream(server.url, {"text_input": "late"})
    assert [next(answers), next(answers)]
    with pytest.raises(EngineError, match=r"^engine died$"):
        next(answers)


def test_closing_the_iterator_cancels(server: Server) -> None:
    answers = stream(server.url, {"text_input": "endless"})
    next(answers)
    answers.close()
    assert server.cancelled.wait(5)


def test_no_server() -> None:
    (port,) = free_ports(1)
    with pytest.raises(EngineError, match="start one with launch_server"):
        generate(f"http://127.0.0.1:{port}", {})


def test_a_server_that_does_not_answer_in_time() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as silent:  # accepts and never answers
        url = f"http://127.0.0.1:{silent.server_port}"
        with pytest.raises(EngineError, match=f"the connection to {url} failed: timed out"):
            generate(url, {}, timeout=0.1)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://"])
def test_invalid_urls(url: str) -> None:
    with pytest.raises(SettingsError, match="is not a server URL"):
        generate(url, {})


def chat_with(server: Server, lines: str, system: str | None = None) -> tuple[Chat, str]:
    chat = Chat(server.url, "ensemble", system, {"max_tokens": 7, "seed": 0, "top_p": None})
    out = io.StringIO()
    run_chat(chat, io.StringIO(lines), out, io.StringIO())
    return chat, out.getvalue()


def test_each_line_is_a_question_and_carries_the_history(server: Server) -> None:
    chat, out = chat_with(server, "one\n\ntwo", system="Be brief.")
    assert out == f"{TEXT}\n{TEXT}\n"
    asked = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": TEXT},
        {"role": "user", "content": "two"},
    ]
    first, second = server.bodies
    assert second == {
        "path": "/v2/models/ensemble/generate_stream",
        "messages": json.dumps(asked, ensure_ascii=False),
        "stream": True,
        "max_tokens": 7,
        "seed": 0,
    }
    assert json.loads(str(first["messages"])) == asked[:2]
    assert chat.messages == [*asked, {"role": "assistant", "content": TEXT}]


def test_reset_and_exit(server: Server) -> None:
    chat, out = chat_with(server, "one\n/reset\n/exit\ntwo\n", system="Be brief.")
    assert out == f"{TEXT}\n"
    assert chat.messages == [{"role": "system", "content": "Be brief."}]


def test_the_first_error_ends_a_chat_without_a_terminal(server: Server) -> None:
    with pytest.raises(RequestError):
        chat_with(server, 'status 400 {"error":"no"}\ntwo\n')
    assert len(server.bodies) == 1


def test_a_question_without_an_answer_is_not_kept(server: Server) -> None:
    chat = Chat(server.url, "ensemble", None, {})
    with pytest.raises(RequestError):
        chat.ask('status 400 {"error":"no"}', print)
    assert chat.messages == []


def test_a_schema(server: Server) -> None:
    """Only a whole answer that follows it is shown and kept."""
    schema = AnswerSchema('{"type": "integer"}')
    chat = Chat(server.url, "ensemble", None, {"max_tokens": 7}, schema)
    shown: list[str] = []

    def ask(reason: str, *pieces: str) -> str:
        answers = [{"text_output": piece} for piece in pieces]
        question = json.dumps([*answers, {"text_output": "", "finish_reason": reason}])
        chat.ask(question, shown.append)
        return question

    first = ask("stop", "1", "2")
    assert shown == ["12"]
    body = server.bodies[0]
    assert {name: body[name] for name in schema.inputs} == schema.inputs
    with pytest.raises(RequestError, match="cut by max_tokens = 7"):
        ask("length", "3")
    with pytest.raises(EngineError, match="does not follow the schema"):
        ask("stop", "1.5")
    assert shown == ["12"]
    assert chat.messages == [
        {"role": "user", "content": first},
        {"role": "assistant", "content": "12"},
    ]


def test_a_terminal(server: Server) -> None:
    """Ctrl-C stops only the answer, errors are shown, Ctrl-D ends the chat."""
    keyboard, terminal = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from trt_tokenizers.cli.main import main; main()"),
            *("chat", "--url", server.url),
        ],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(terminal)
    screen = b""

    def type_after(seen: str, keys: bytes) -> None:
        nonlocal screen
        while seen.encode() not in screen:
            assert select.select([keyboard], [], [], 10)[0], screen.decode(errors="replace")
            screen += os.read(keyboard, 4096)
        screen = screen.partition(seen.encode())[2]
        os.write(keyboard, keys)

    type_after("> ", b"endless\n")
    type_after("again again", b"")
    process.send_signal(signal.SIGINT)
    type_after("> ", b'status 400 {"error":"no"}\n')
    type_after("error: HTTP 400: no", b"")
    type_after("> ", b"hi\n")
    type_after("🙂", b"")
    type_after("> ", b"\x04")
    assert process.wait(10) == 0
    os.close(keyboard)
    assert server.cancelled.wait(5)
    history = json.loads(str(server.bodies[-1]["messages"]))
    assert [m["role"] for m in history] == ["user", "assistant", "user"]
    assert history[1]["content"].startswith("again again")
