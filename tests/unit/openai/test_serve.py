"""How the front end listens."""

from __future__ import annotations

import signal
import socket

import pytest
import uvicorn

from trt_tokenizers.openai.options import FrontEndOptions
from trt_tokenizers.openai.serve import serve


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> list[tuple[uvicorn.Config, socket.socket]]:
    """uvicorn's configuration, and a connection that its socket has accepted."""
    found: list[tuple[uvicorn.Config, socket.socket]] = []

    def run(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        (listening,) = sockets
        with socket.create_connection(listening.getsockname()):
            found.append((self.config, listening.accept()[0]))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    serve(FrontEndOptions("127.0.0.1:1", port=0))
    return found


def test_its_connections_do_not_hold_events_back(
    server: list[tuple[uvicorn.Config, socket.socket]],
) -> None:
    """Else an event waits until the client has acknowledged the one before."""
    ((config, connection),) = server
    with connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert config.timeout_keep_alive > 60  # as long as load balancers keep a connection
