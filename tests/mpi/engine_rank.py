"""One rank of the transformers engine, without Triton: by the command line, or `forked`.

Says "loaded", and "stopped" after a clean end. The leader stops when its input ends.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from trt_tokenizers.engines.transformers.engine import TransformersEngine


def serve(model_dir: str, say: Callable[[str], object], stops: Callable[[], object]) -> None:
    """Load, and serve until *stops*, which waits for 0.1 s, or follow."""
    logging.basicConfig(level=logging.ERROR)
    # It logs gloo's errors with a traceback.
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    engine = TransformersEngine({"model_dir": model_dir, "device": "cpu", "max_seq_len": "512"})
    say("loaded")
    if engine.leads:
        while engine.died is None and not stops():
            pass
        if engine.died is not None:
            sys.exit(engine.died)
        engine.stop()
    else:
        engine.follow()
    say("stopped")


def forked(model_dir: str, environ: dict[str, str], input_: Connection, log: Path) -> None:
    """A rank in a process of `multiprocessing`; *log* gets its standard error."""
    os.environ.update(environ)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 2)
    serve(model_dir, input_.send, lambda: input_.poll(0.1))


if __name__ == "__main__":
    serve(
        sys.argv[1],
        lambda text: print(text, flush=True),  # noqa: T201
        lambda: select.select([sys.stdin], [], [], 0.1)[0],
    )
