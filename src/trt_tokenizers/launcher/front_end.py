"""The OpenAI-compatible front end: a process that the launcher starts beside the ranks."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

from trt_tokenizers.launcher import process_tree
from trt_tokenizers.launcher.command import LaunchCommand, LaunchOptions

#: Seconds, once the ranks have ended, for it to pass on the last text.
_LAST_TEXT_S = 5.0


class FrontEnd:
    """The process, on the launcher's host. Its other options come from the environment.

    Attributes:
        argv: what it runs.
        url: its address for clients.
        port: where it listens.
    """

    def __init__(self, port: int, options: LaunchOptions, command: LaunchCommand) -> None:
        host = "127.0.0.1" if options.host == "0.0.0.0" else options.host
        self.url = f"http://{host}:{port}/v1"
        self.port = port
        self._address = (host, port)
        self.argv = (
            *(sys.executable, "-m", "trt_tokenizers.cli.openai"),
            *("--triton", command.grpc_address, "--metrics-url", command.metrics_url),
            *("--host", options.host, "--port", str(port)),
            *("--drain-timeout", str(options.exit_timeout)),
        )

    def text(self) -> str:
        """The command, for a reader, after that of the ranks."""
        return f"\n# beside the ranks\n{shlex.join(self.argv)}"

    def start(self, outputs: tuple[int, int], ended: Callable[[str], None]) -> None:
        """Start it; *ended* is called with its exit code, as text, when it has ended."""
        self._process = process = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=outputs[0],
            stderr=outputs[1],
            start_new_session=True,
            preexec_fn=process_tree.die_with_parent(os.getpid()),  # noqa: PLW1509 - as the ranks
        )

        def wait() -> None:
            code = process.wait()
            ended(signal.Signals(-code).name if code < 0 else f"exit code {code}")

        self._thread = threading.Thread(target=wait, daemon=True)
        self._thread.start()

    def listens(self) -> bool:
        """Whether clients can connect."""
        try:
            socket.create_connection(self._address, timeout=1).close()
        except OSError:
            return False
        return True

    def drain(self) -> None:
        """Let it end its running answers and take no new requests."""
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def join(self) -> None:
        """Wait until it has passed on the last text of the ranks, which have ended."""
        self._thread.join(_LAST_TEXT_S)
