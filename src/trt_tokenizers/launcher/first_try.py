"""Serves a model folder with defaults, for a first try: repository, server and OpenAI's API."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trt_tokenizers.errors import LaunchError, RepositoryError
from trt_tokenizers.launcher import preflight
from trt_tokenizers.launcher.command import LaunchOptions, build_command
from trt_tokenizers.launcher.front_end import FrontEnd
from trt_tokenizers.launcher.launch import launch
from trt_tokenizers.launcher.tritonserver import find_server
from trt_tokenizers.memory.gpus import host_gpus
from trt_tokenizers.repository.check import check
from trt_tokenizers.repository.demo_model import cache_folder, demo_model
from trt_tokenizers.repository.generate import GenerateOptions, render, write
from trt_tokenizers.repository.tensorrtllm_backend import CPP_BACKEND
from trt_tokenizers.settings import as_text

#: The name that stands for the demo's model.
DEMO = "demo"
_OPENAI_PORT = 9000
_READY_TIMEOUT = 1800.0  # seconds
_QUESTION = "What is the capital of France?"


@dataclass(frozen=True)
class ServeOptions:
    """The options of `serve`.

    Attributes:
        model: a Hugging Face folder, or `DEMO`.
        engine: the engine's name; empty: vllm if it is installed and a GPU is there, else
            transformers.
        engine_args: the engine's arguments; those of transformers are its settings.
        host: address to bind to.
        port: OpenAI's port; None: 9000, or a free one if it is taken.
        verbose: show the server's log on a terminal too.
    """

    model: str
    engine: str = ""
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int | None = None
    verbose: bool = False


def serve(options: ServeOptions, say: Callable[[str], None]) -> None:
    """Make the repository if the cache lacks it, start the server, and wait until it ends.

    Args:
        say: prints one line for the user.

    Raises:
        RepositoryError: the model or the repository has problems.
        ServerNotFoundError: this machine has no usable tritonserver.
        LaunchError: the server did not start or did not stop cleanly.
    """
    server = find_server(os.environ.get("TRITONSERVER"))
    engine = options.engine or default_engine()
    if not options.engine:
        say(f"the engine is {engine}; --engine chooses another one")
    model = demo_model(say) if options.model == DEMO else Path(options.model)
    repository = cached_repository(generate_options(model, engine, options.engine_args))
    say(f"the model repository is {repository}")
    deployment, port = with_free_ports(
        LaunchOptions(repository, host=options.host, master_port=preflight.free_port()),
        options.port,
        say,
    )
    command = build_command(deployment, server)
    front_end = FrontEnd(port, deployment, command)
    launch(
        deployment,
        command,
        front_end,
        ready_timeout=_READY_TIMEOUT,
        force=True,  # several may try the same model, each on ports of its own
        verbose=options.verbose,
        when_ready=to_paste(front_end.url, command.http_url),
    )


def default_engine() -> str:
    """vllm if it is installed and this host has a GPU, else transformers."""
    return "vllm" if find_spec("vllm") and host_gpus(os.environ) else "transformers"


def generate_options(model: Path, engine: str, arguments: Mapping[str, Any]) -> GenerateOptions:
    """The options with which `generate` makes the repository.

    Raises:
        RepositoryError: there is no folder *model*, or its engine is the C++ backend.
    """
    if not model.is_dir():
        raise RepositoryError(
            f"{model}: no such folder; give a Hugging Face model folder, or {DEMO}"
        )
    if engine == CPP_BACKEND:
        raise RepositoryError(
            f"serve starts Python engines only; run trt-tokenizers generate --engine {CPP_BACKEND} "
            "--engine-dir E --tokenizer-dir T --output R, then launch_server --model-repo R"
        )
    options = GenerateOptions(engine=engine, model_dir=model)
    if engine == "vllm":
        return replace(options, engine_args=arguments)
    if engine == "llmapi":
        return replace(options, llm_args=arguments)
    return replace(options, values={name: as_text(value) for name, value in arguments.items()})


def cached_repository(options: GenerateOptions) -> Path:
    """The repository of these options, made if the cache lacks it.

    Its name has a digest of its files, so other options, or another version of this package, get
    another folder.

    Raises:
        RepositoryError: a value or the model is wrong; see `render` and `check`.
    """
    rendered = render(options)
    digest = hashlib.sha256(json.dumps(rendered, sort_keys=True).encode()).hexdigest()[:12]
    model = options.model_dir.resolve().name if options.model_dir else ""
    folder = cache_folder() / "repositories" / f"{model}-{digest}"
    if not folder.is_dir():
        write(rendered, folder, force=True, verify=check)  # another process may make it as well
    return folder


def with_free_ports(
    options: LaunchOptions, openai: int | None, say: Callable[[str], None]
) -> tuple[LaunchOptions, int]:
    """*options* with free ports, and OpenAI's port: the usual ones, or all 10, 20, … higher.

    Args:
        openai: the port that the user chose, which stays.

    Raises:
        LaunchError: the chosen port or the host cannot be bound, or no ports are free.
    """
    for problem in preflight.port_problems("--port", options.host, openai or 0):
        raise LaunchError(problem)
    for step in range(0, 1000, 10):
        ports = [port + step for port in options.ports.values()]
        last = openai or _OPENAI_PORT + step
        taken = [p for p in (*ports, *([] if openai else [last])) if not _free(options.host, p)]
        if not taken:
            if step:
                say(f"usual ports are taken; the ports are {', '.join(map(str, (*ports, last)))}")
            http, grpc, metrics = ports
            return replace(options, http_port=http, grpc_port=grpc, metrics_port=metrics), last
    raise LaunchError(f"no free ports on {options.host}; stop a server, or use launch_server")


def _free(host: str, port: int) -> bool:
    return not list(preflight.port_problems("", host, port))


def to_paste(openai_url: str, http_url: str) -> tuple[str, ...]:
    """The page's address and a line each for curl, Python and this package's chat."""
    messages = [{"role": "user", "content": _QUESTION}]
    body = json.dumps({"model": "ensemble", "messages": messages, "temperature": 0})
    curl = ("curl", "-s", f"{openai_url}/chat/completions", "-H", "Content-Type: application/json")
    python = (
        f"from openai import OpenAI; c = OpenAI(base_url={openai_url!r}, api_key='none'); "
        f"print(c.chat.completions.create(model='ensemble', messages={messages}, temperature=0)"
        ".choices[0].message.content)"
    )
    return (
        "",
        f"Open {openai_url.removesuffix('v1')} in a browser, or paste a line into a terminal:",
        "",
        shlex.join((*curl, "-d", body)),
        f'python -c "{python}"  # pip install openai',
        f"trt-tokenizers chat --url {http_url}",
        "",
        "Ctrl-C stops the server.",
    )
