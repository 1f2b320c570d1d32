"""A request's own template, in a process that is killed when it goes over its bounds.

Nobody has read such a template, and the sandbox cannot stop what C code does within one expression
or while Python compiles it. So both happen in a child of this process, which the kernel stops.

A model's process has threads of its own and of Triton's. The child has none of them, and may find
what they held locked: it logs nothing, counts nothing, ends without any clean-up, and is killed if
it waits. Its own garbage collector stays off, as a pass would write to, and so copy, every object
of the parent's.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from trt_tokenizers.errors import RequestError, TemplateError
from trt_tokenizers.templates.messages import MAX_JSON, Message
from trt_tokenizers.templates.render import ChatTemplate

CPU_S = 1  #: after which the kernel kills; the sandbox gives up after half of it, if it can
#: Until the parent kills: a machine that does other work must not make a good template fail, but
#: no request may hold the others up for long.
WALL_S = 2.0
#: That the child may add to what it has from its parent. A prompt of `MAX_PROMPT` characters, four
#: bytes each, fits a dozen times; so do a few instances at once on any machine with a GPU.
MEMORY = 256 << 20
MAX_PROMPT = MAX_JSON  #: characters; nor may messages have more

# In UTF-8 there is no such byte: an answer that ends with it is whole.
_END = b"\xff"

# Python 3.12 warns that the child may hang. It may: then it is killed.
warnings.filterwarnings(
    "ignore", r".*multi-threaded, use of fork\(\)", DeprecationWarning, __name__.replace(".", r"\.")
)


def render_apart(
    name: str,
    source: str,
    messages: Sequence[Message],
    special_tokens: Mapping[str, str],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """`ChatTemplate` and its `render`, in a child process.

    Raises:
        RequestError: as theirs; or the child went over its bounds.
    """

    def make() -> str:
        template = ChatTemplate(name, source)
        return template.render(messages, special_tokens, tools=tools, arguments=arguments)

    answer = _ask_child(make)
    if answer is None:
        raise RequestError(
            f"template {name!r} takes more than {CPU_S} s of CPU time, {WALL_S:g} s in all or "
            f"{MEMORY >> 20} MB of memory; simplify it"
        )
    kind, text = answer[:1], answer[1 : -len(_END)].decode()
    if kind == b"+":
        return text
    raise RequestError(text) if kind == b"-" else RuntimeError(text)


def _ask_child(make: Callable[[], str]) -> bytes | None:
    """What the child writes; None if it did not come to its end."""
    ours, its = os.pipe()
    try:
        child = os.fork()
        if child == 0:
            _be_the_child(make, its)
        os.close(its)
        its = -1
        try:
            return _read(ours)
        finally:
            # Until it is waited for, its number is no other's, whether it has ended or not; where
            # SIGCHLD is ignored, the kernel does not wait.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
    finally:
        for end in (ours, its):
            if end >= 0:
                os.close(end)


def _read(pipe: int) -> bytes | None:
    deadline = time.monotonic() + WALL_S
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    got = bytearray()
    while (left := deadline - time.monotonic()) > 0 and waiting.poll(left * 1000):
        piece = os.read(pipe, 1 << 16)
        if not piece:
            return bytes(got) if got.endswith(_END) else None
        got += piece
        if len(got) > 4 * MAX_PROMPT + 2:
            return None
    return None


def _be_the_child(make: Callable[[], str], pipe: int) -> NoReturn:
    try:
        gc.disable()
        signal.setitimer(signal.ITIMER_REAL, WALL_S + 1)  # for a child whose parent was killed
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        size = pages * resource.getpagesize() + MEMORY
        if most == resource.RLIM_INFINITY or size < most:
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
        answer = memoryview(_answer(make))
        while answer:
            answer = answer[os.write(pipe, answer) :]
    finally:
        os._exit(0)


def _answer(make: Callable[[], str]) -> bytes:
    """Of one kind each: ``+`` the prompt, ``-`` the client's fault, ``!`` ours."""
    try:
        text = make()
        if len(text) > MAX_PROMPT:
            raise RequestError(
                f"the prompt that chat_template makes has {len(text)} characters; "
                f"at most {MAX_PROMPT} are served"
            )
        return b"+" + text.encode() + _END
    except (RequestError, TemplateError) as error:
        return b"-" + str(error).encode("utf-8", "backslashreplace") + _END
    except MemoryError:
        return b""
    except Exception as error:
        return b"!" + repr(error).encode("utf-8", "backslashreplace") + _END
