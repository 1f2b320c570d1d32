"""Deployments -> command lines, and what is found wrong before anything starts."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest

from harness import free_ports
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.launch import Deployment, plan, problems
from trt_tokenizers.server import Server

SERVER = Server(Path("/opt/tritonserver/bin/tritonserver"), env={"PATH": "/venv/bin:/bin"})


def deployment(folder: Path = Path("models"), **more: object) -> Deployment:
    return dataclasses.replace(Deployment(folder), **more)  # type: ignore[arg-type]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for model in ("ensemble", "preprocessing"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.pbtxt").write_text('backend: "python"\n')
    return tmp_path


def test_the_plan_of_one_rank() -> None:
    made = plan(deployment(shm_prefix="p", extra_args=("--log-format=ISO8601",)), SERVER)
    (rank,) = made.ranks
    assert rank.argv == (
        "/opt/tritonserver/bin/tritonserver",
        "--model-repository=models",
        "--http-address=127.0.0.1",
        "--http-port=8000",
        "--grpc-address=127.0.0.1",
        "--grpc-port=8001",
        "--metrics-port=8002",
        "--exit-timeout-secs=20",
        "--backend-config=python,shm-region-prefix-name=p-r0-",
        "--disable-auto-complete-config",
        "--log-format=ISO8601",
    )
    assert rank.shm_prefix == "p-r0-"
    assert rank.env["PATH"] == "/venv/bin:/bin"
    assert made.http_url == "http://127.0.0.1:8000"
    assert made.grpc_address == "127.0.0.1:8001"
    assert made.metrics_url == "http://127.0.0.1:8002/metrics"


def test_options_of_the_plan() -> None:
    server = dataclasses.replace(SERVER, backend_directory=Path("/cache/backends"))
    made = plan(deployment(host="0.0.0.0", log_verbose=2, auto_complete=True), server)
    argv = made.ranks[0].argv
    assert "--http-address=0.0.0.0" in argv
    assert "--backend-directory=/cache/backends" in argv
    assert "--log-verbose=2" in argv
    assert "--disable-auto-complete-config" not in argv
    assert made.http_url == "http://127.0.0.1:8000", "reached from here"


def test_each_launch_has_its_own_shared_memory() -> None:
    assert deployment().shm_prefix != deployment().shm_prefix


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"world_size": 2}, "--world-size 2: several MPI ranks cannot be launched yet"),
        ({"host": "localhost"}, "--host localhost: Triton takes a plain IPv4 address only"),
        ({"host": "::1"}, "--host ::1: Triton takes a plain IPv4 address only"),
        ({"grpc_port": 8000}, "are the same; give three"),
        ({"extra_args": ("--http-port=1",)}, "use --http-port before the --"),
        ({"extra_args": ("--model-store", "x")}, "use --model-repo before the --"),
        ({"extra_args": ("--allow-http=false",)}, "it has to stay on"),
    ],
)
def test_settings_that_are_refused(more: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        plan(deployment(**more), SERVER)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def found(folder: Path, **more: object) -> list[str]:
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    return list(problems(deployment(folder, **{**ports, **more})))


def test_nothing_is_wrong(repository: Path) -> None:
    assert found(repository) == []


def test_repositories_that_are_none(repository: Path) -> None:
    nowhere = repository / "nowhere"
    assert found(nowhere) == [
        f"--model-repo {nowhere}: there is no such folder; name a model repository"
    ]
    model = repository / "ensemble"
    assert found(model) == [
        f"--model-repo {model}: no model in it has a config.pbtxt; "
        f"it is a model itself, give the folder above it: {repository}"
    ]
    nowhere.mkdir()
    assert found(nowhere) == [f"--model-repo {nowhere}: no model in it has a config.pbtxt"]


def test_placeholders_are_named_by_file_and_line(repository: Path) -> None:
    config = repository / "preprocessing" / "config.pbtxt"
    config.write_text('# ${comment}\nmax_batch_size: ${size}\n  value: "${tokenizer_dir}"\n')
    assert found(repository) == [
        f"{config}:2: a placeholder was never filled: max_batch_size: ${{size}}; "
        "fill_template gives it a value",
        f'{config}:3: a placeholder was never filled: value: "${{tokenizer_dir}}"; '
        "fill_template gives it a value",
    ]


def test_a_port_in_use_names_who_uses_it(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        name = Path("/proc/self/comm").read_text().strip()
        assert found(repository, grpc_port=port) == [
            f"--grpc-port {port} is in use by pid {os.getpid()} ({name}); "
            "end that or take another port"
        ]


def test_an_address_that_is_not_ours(repository: Path) -> None:
    assert "cannot be bound on --host 192.0.2.1" in found(repository, host="192.0.2.1")[0]
