"""Runs the front end until a signal."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys

import uvicorn
from starlette.applications import Starlette

from trt_tokenizers.errors import LaunchError
from trt_tokenizers.openai.app import FrontEnd
from trt_tokenizers.openai.options import FrontEndOptions
from trt_tokenizers.openai.parsing import make_parser
from trt_tokenizers.openai.triton import Triton

#: glibc's number of the option, and the value: blocks from this size on go back to the system when
#: they are freed. By default it raises the limit to the size of each block that is freed.
_M_MMAP_THRESHOLD, _LARGE = -3, 64 << 10
#: Seconds that a connection may wait for its next request: longer than load balancers wait, whose
#: requests would otherwise meet its end (60 s for nginx and most others).
_KEEP_ALIVE_S = 75


def serve(options: FrontEndOptions) -> None:
    """Listen until SIGINT or SIGTERM; running answers then get ``drain_s`` seconds to end.

    Raises:
        SettingsError: there is no parser of a name.
        LaunchError: it cannot listen.
    """
    make_parser(options.tool_parser, options.reasoning_parser, tools=())  # refuses unknown names
    with contextlib.suppress(AttributeError):  # no glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")

    def make_app() -> Starlette:  # in the event loop, which the connection needs
        app = FrontEnd(options, Triton(options.triton, options.ensemble)).app()
        gc.freeze()  # collections of garbage skip what stays: 7 % of the CPU time
        return app

    config = uvicorn.Config(
        make_app,
        factory=True,
        log_level="warning",
        access_log=False,
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=options.drain_s,
        server_header=False,
    )
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listening = socket.create_server((options.host, options.port), family=family)
    except OSError as error:
        where = f"{options.host}:{options.port}"
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise LaunchError(
            f"cannot listen at {where}: {reason}; choose another --port or --host"
        ) from None
    # Its connections inherit this. asyncio sets it only for sockets that name their protocol.
    # Without it an event waits up to 40 ms for the client's acknowledgement of the one before.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn raises the signal again when it has ended.
        signal.signal(number, lambda *_: sys.exit(0))
    with listening:
        uvicorn.Server(config).run(sockets=[listening])
