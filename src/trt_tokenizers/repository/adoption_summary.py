"""Says in a few lines what an adoption changes, for clients too, and what to do next."""

from __future__ import annotations

import contextlib
import difflib
import shlex
from pathlib import Path

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.memory.engine_folder import read_engine
from trt_tokenizers.repository.adopt import Adoption, engine_config
from trt_tokenizers.repository.ensemble import parameters
from trt_tokenizers.repository.pbtxt import parse_config

_ENSEMBLE = "ensemble/config.pbtxt"


def changes(adoption: Adoption) -> list[str]:
    """The changed files with their added and removed lines, and what changes for clients."""
    width = max(map(len, adoption.files))
    lines = ["files:"]
    for path, (old, new) in adoption.files.items():
        delta = list(difflib.unified_diff(old.splitlines(), new.splitlines(), n=0))[2:]
        added, removed = (sum(line.startswith(sign) for line in delta) for sign in "+-")
        lines.append(f"  {path:<{width}}  {f'+{added} -{removed}' if old else 'new'}")
    lines.append("clients: every input and output stays, with its name, type and shape")
    if _ENSEMBLE not in adoption.files:  # adopted before
        return lines
    old, new = map(parse_config, adoption.files[_ENSEMBLE])
    for what, were, are in (
        ("inputs, all optional", old.input, new.input),
        ("outputs", old.output, new.output),
    ):
        names = [t.name for t in are if t.name not in {known.name for known in were}]
        if names:
            lines.append(f"  new {what}: {', '.join(names)}")
    lines.append("  now refused with 400: a misspelt request parameter, and an empty prompt")
    return lines


def next_steps(repository: Path, backup: Path, *, checked: bool) -> list[str]:
    """Commands to paste, once *repository* is adopted and *backup* holds the old one.

    Args:
        checked: the check of the adopted repository has passed.
    """
    folder, ranks = shlex.quote(str(repository.resolve())), 1
    engine = parameters(engine_config(repository)).get("gpt_model_path", "")
    with contextlib.suppress(RepositoryError):  # the folder may be on the server only
        ranks = len(read_engine(Path(engine)).files) if engine else 1
    size = f" --world-size {ranks}" if ranks > 1 else ""
    check = [] if checked else [f"  trt-tokenizers check {folder}   # where the tokenizer is"]
    return [
        "next:",
        *check,
        f"  launch_server --model-repo {folder}{size}",
        f"  rm -r {folder} && mv {shlex.quote(str(backup))} {folder}   # to go back",
    ]
