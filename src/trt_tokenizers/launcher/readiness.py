"""Asks a running tritonserver's HTTP port whether it is ready."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.parse
from dataclasses import dataclass


@dataclass(frozen=True)
class Readiness:
    """The state of a server.

    Attributes:
        ready: the server and every model that it must load are ready.
        models: the ready models.
        failed: (model, reason) of the models that failed to load.
    """

    ready: bool = False
    models: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()


def read_readiness(http_url: str, timeout: float = 2.0) -> Readiness:
    """Ask once. A server without an answer within *timeout* seconds is not ready."""
    address = urllib.parse.urlsplit(http_url).netloc
    try:
        healthy = _request(address, "GET", "/v2/health/ready", timeout)[0] == 200
        status, body = _request(address, "POST", "/v2/repository/index", timeout)
        return judge(healthy, json.loads(body)) if status == 200 else Readiness()
    except (OSError, http.client.HTTPException, ValueError):
        return Readiness()


def _request(address: str, method: str, path: str, timeout: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()


def judge(healthy: bool, index: list[dict[str, str]]) -> Readiness:
    """A repository index -> readiness.

    The best version of a model counts. A model without a state need not load
    (``--model-control-mode=explicit``).
    """
    states: dict[str, set[str]] = {}
    reasons: dict[str, str] = {}
    for entry in index:
        state, reason = entry.get("state", ""), entry.get("reason", "")
        if state and reason != "unloaded":
            states.setdefault(entry["name"], set()).add(state)
            reasons[entry["name"]] = reason.partition("\n")[0]
    ready = tuple(sorted(name for name, s in states.items() if "READY" in s))
    failed = tuple(
        (name, reasons[name]) for name in sorted(states) if states[name] == {"UNAVAILABLE"}
    )
    return Readiness(healthy and len(ready) == len(states), ready, failed)
