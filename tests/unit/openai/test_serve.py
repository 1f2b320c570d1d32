"""How the front end listens."""

from __future__ import annotations

import signal
import socket

import pytest
import uvicorn

from trt_tokenizers.openai.options import FrontEndOptions
from trt_tokenizers.openai.serve import serve


def test_its_connections_do_not_hold_events_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an event waits until the client has acknowledged the one before."""
    found: list[int] = []

    def run(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        (listening,) = sockets
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            found.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        found.append(server.config.timeout_keep_alive)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    serve(FrontEndOptions("127.0.0.1:1", port=0))
    no_delay, keep_alive = found
    assert no_delay
    assert keep_alive > 60  # as long as load balancers keep a connection
