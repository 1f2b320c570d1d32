"""Checks a deployment and runs it: what `launch_server` and `trt-tokenizers serve` share."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from trt_tokenizers.errors import LaunchError
from trt_tokenizers.launcher import preflight
from trt_tokenizers.launcher.command import LaunchCommand, LaunchOptions
from trt_tokenizers.launcher.console import Console
from trt_tokenizers.launcher.front_end import FrontEnd
from trt_tokenizers.launcher.lock import locked
from trt_tokenizers.launcher.supervisor import supervise
from trt_tokenizers.repository import check_engines


def launch(
    options: LaunchOptions,
    command: LaunchCommand,
    front_end: FrontEnd | None,
    *,
    ready_timeout: float,
    force: bool = False,
    verbose: bool = False,
    log_file: Path | None = None,
    ready_file: Path | None = None,
    when_ready: Sequence[str] = (),
) -> None:
    """Run *command*, which `build_command` made of *options*, until it ends.

    On a terminal the servers' output goes to a file, unless the user chose a place for it.
    Elsewhere it goes to the standard outputs, which a service manager or a container collects.

    Args:
        ready_timeout: seconds for all models to load; 0 means no limit.
        force: run even if another launcher runs the same repository.
        verbose: show the servers' output on a terminal too.
        log_file, ready_file, when_ready: as in `supervise`.

    Raises:
        LaunchError: the deployment has problems (one line each), or it did not stop cleanly.
    """
    repository, here = options.model_repository, preflight.ranks_here(options)
    several = {"multi_model": bool(options.orchestrator)}
    with locked(repository, command.ranks.launch_prefix, force=force):
        found = list(preflight.problems(options))
        if front_end is not None:
            found += preflight.port_problems("--openai-port", options.host, front_end.port)
        found = found or [
            *preflight.shm_problems(check_engines.python_processes(repository)),
            *check_engines.engine_problems(repository, options.world_size, **several),
            *check_engines.gpu_problems(
                repository, options.world_size, here, os.environ, **several
            ),
        ]
        if found:
            raise LaunchError("\n".join(found))
        shown = verbose or options.log_dir or not (os.isatty(1) and os.isatty(2))
        named = log_file is not None
        if not (named or shown):
            log_file = last_log(f"server-{options.http_port}")
        console = Console(sys.stderr, quiet=log_file is not None)
        if log_file is not None and not named:
            console.say(f"the server's log is {log_file}")
        supervise(
            command,
            ready_timeout=ready_timeout,
            console=console,
            log_file=log_file,
            ready_file=ready_file,
            front_end=front_end,
            when_ready=when_ready,
        )


def last_log(name: str) -> Path:
    """A log file in the user's state folder; an older one of this name is removed.

    Raises:
        LaunchError: the folder cannot be written.
    """
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    log = state / "trt-tokenizers" / f"{name}.log"
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
    except OSError as error:
        raise LaunchError(
            f"the log {log} cannot be written: {error.strerror}; "
            "set XDG_STATE_HOME to a writable folder, or give --verbose"
        ) from None
    return log
