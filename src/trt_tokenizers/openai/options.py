"""The front end's options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FrontEndOptions:
    """What an operator sets.

    Attributes:
        triton: gRPC address of Triton.
        ensemble: name of its ensemble.
        preprocessing: name of its model that tokenizes.
        host, port: where to listen.
        names: names by which clients know the model; empty: the ensemble's.
        adapters: names of LoRA adapters, which clients send as the model.
        tool_parser, reasoning_parser: names of parsers, ``auto`` or ``none``.
        reasoning_field: field of an answer for its reasoning.
        force_usage: every stream ends with the usage.
        api_keys: clients must send one of them; empty: none.
        origins: origins whose web pages may ask; ``*`` for all.
        max_body: most bytes of a request.
        metrics_url: Triton's metrics; empty: none.
        certificate, key: files for TLS.
        log_requests: write one line of JSON for each request.
        drain_s: seconds for running answers after a stop request.
        page: serve the page for trying the model at ``/``.
    """

    triton: str
    ensemble: str = "ensemble"
    preprocessing: str = "preprocessing"
    host: str = "127.0.0.1"
    port: int = 9000
    names: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    tool_parser: str = "auto"
    reasoning_parser: str = "auto"
    reasoning_field: str = "reasoning_content"
    force_usage: bool = False
    api_keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_body: int = 16 << 20
    metrics_url: str = ""
    certificate: Path | None = None
    key: Path | None = None
    log_requests: bool = True
    drain_s: int = 20
    page: bool = True
