"""Keys, request ids, the log, metrics, the limit of bodies, CORS."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asgi import ScriptedTriton, app, ask
from trt_tokenizers.openai import operators
from trt_tokenizers.openai.app import FrontEnd
from trt_tokenizers.openai.options import FrontEndOptions

CHAT = {"model": "ensemble", "messages": [{"role": "user", "content": "secret words"}]}
PATH = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("sent", "status"),
    [(None, 401), ("Bearer wrong", 401), ("Bearer ", 401), ("Bearer b-key", 200), ("a-key", 200)],
)
def test_a_key_of_the_list_must_be_sent(sent: str | None, status: int) -> None:
    application = app(ScriptedTriton(), api_keys=("a-key", "b-key"))
    headers = {"authorization": sent} if sent else {}
    assert ask(application, PATH, CHAT, headers=headers).status == status
    answer = ask(application, "/v1/models", headers=headers)
    assert answer.status == status
    if status == 401:
        assert answer.json["error"]["code"] == "invalid_api_key"
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert ask(application, path).status == 200


def test_the_clients_request_id_comes_back_or_a_new_one() -> None:
    application = app(ScriptedTriton())
    for path, body in ((PATH, CHAT), (PATH, {**CHAT, "stream": True}), ("/nowhere", None)):
        answer = ask(application, path, body, headers={"x-request-id": "abc-1"})
        assert answer.headers["x-request-id"] == "abc-1"
        made = ask(application, path, body, headers={"x-request-id": "a\nb"})
        assert len(made.headers["x-request-id"]) == 32


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_the_limit_is_a_413(declared: bool) -> None:
    application = app(ScriptedTriton(), max_body=200)
    body = json.dumps({**CHAT, "user": "x" * 200}).encode()
    headers = {"content-length": str(len(body))} if declared else {}
    answer = ask(application, PATH, body, headers=headers)
    assert (answer.status, answer.json["error"]["type"]) == (413, "invalid_request_error")
    assert ask(application, PATH, CHAT).status == 200


def test_half_a_body_gets_a_408_and_the_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "BODY_S", 0.1)
    triton = ScriptedTriton()
    answer = ask(app(triton), PATH, CHAT, part=20)
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert answer.json["error"]["message"].startswith("the request did not arrive within 0.1 s")
    assert triton.asked == []
    assert ask(app(triton), PATH, CHAT).status == 200


def test_a_log_line_has_the_counts_and_no_text(capsys: Any) -> None:
    made = FrontEndOptions("", log_requests=True)
    application = FrontEnd(made, ScriptedTriton()).app()  # type: ignore[arg-type]
    ask(application, PATH, CHAT, headers={"x-request-id": "id7", "authorization": "Bearer k"})
    ask(application, PATH, {**CHAT, "stream": True, "n": 0})
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["status"] == 200
    assert first["request_id"] == "id7"
    assert (first["prompt_tokens"], first["completion_tokens"]) == (5, 2)
    assert second["status"] == 400
    assert "secret" not in json.dumps([first, second])
    assert "Bearer" not in json.dumps([first, second])


def test_metrics_count_requests_tokens_and_clients_that_left() -> None:
    application = app(ScriptedTriton())
    ask(application, PATH, CHAT)
    ask(application, PATH, {})
    ask(application, "/etc/passwd")
    text = ask(application, "/metrics").body.decode()
    assert f'requests_total{{path="{PATH}",status="200"}} 1' in text
    assert f'requests_total{{path="{PATH}",status="400"}} 1' in text
    assert 'requests_total{path="other",status="404"} 1' in text
    assert "completion_tokens_total 2" in text
    waiting = app(ScriptedTriton([1000]))
    ask(waiting, PATH, CHAT, hang_up_s=0.01)
    text = ask(waiting, "/metrics").body.decode()
    assert f'requests_total{{path="{PATH}",status="499"}} 1' in text


def test_metrics_of_a_triton_that_is_gone() -> None:
    application = app(ScriptedTriton(), metrics_url="http://127.0.0.1:1/metrics")
    answer = ask(application, "/metrics")
    assert answer.status == 200
    assert answer.body.startswith(b"# Triton's metrics at http://127.0.0.1:1/metrics cannot be")


def test_web_pages_of_the_listed_origins_may_ask_without_a_key_first() -> None:
    application = app(ScriptedTriton(), origins=("https://a.example",), api_keys=("k",))
    preflight = {"access-control-request-method": "POST", "origin": "https://a.example"}
    answer = ask(application, PATH, headers=preflight, method="OPTIONS")
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    other = ask(application, PATH, headers={**preflight, "origin": "https://b.example"},
                method="OPTIONS")  # fmt: skip
    assert "access-control-allow-origin" not in other.headers
