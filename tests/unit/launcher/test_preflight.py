"""Problems that are found before anything starts."""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness import free_ports
from trt_tokenizers.errors import LaunchError
from trt_tokenizers.launcher.command import LaunchOptions
from trt_tokenizers.launcher.lock import locked
from trt_tokenizers.launcher.mpi import Host
from trt_tokenizers.launcher.preflight import problems, shm_problems, slurm_leader
from trt_tokenizers.streams.process_stat import is_running


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for model in ("ensemble", "preprocessing"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.pbtxt").write_text('backend: "python"\n')
    return tmp_path


def found(folder: Path, **more: object) -> list[str]:
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    return list(problems(dataclasses.replace(LaunchOptions(folder), **{**ports, **more})))


def test_a_valid_repository(repository: Path) -> None:
    assert found(repository) == []


def test_invalid_repositories(repository: Path) -> None:
    nowhere = repository / "nowhere"
    assert found(nowhere) == [f"--model-repo {nowhere}: no such folder; give a model repository"]
    model = repository / "ensemble"
    assert found(model) == [
        f"--model-repo {model}: no model in it has a config.pbtxt; "
        f"it is a model; give its parent folder: {repository}"
    ]
    nowhere.mkdir()
    assert found(nowhere) == [
        f"--model-repo {nowhere}: no model in it has a config.pbtxt; generate writes a repository"
    ]


def test_a_port_in_use_names_its_process(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        name = Path("/proc/self/comm").read_text().strip()
        assert found(repository, grpc_port=port) == [
            f"--grpc-port {port} is in use by pid {os.getpid()} ({name}); "
            "stop it or use another port"
        ]


def test_an_address_of_another_host(repository: Path) -> None:
    assert "cannot be bound on --host 192.0.2.1" in found(repository, host="192.0.2.1")[0]


def test_several_ranks_need_the_engine_model(repository: Path) -> None:
    assert found(repository, engine_models=("tensorrt_llm",)) == []
    lines = found(repository, engine_models=("tensorrt_llm", "ensemble"), world_size=2)
    assert [line.partition(":")[0] for line in lines] == ["--tensorrt-llm-model-name tensorrt_llm"]


def test_a_rank_0_on_another_host_must_be_reachable(repository: Path) -> None:
    elsewhere = (Host("gpu1.invalid", 2),)
    assert "--host 127.0.0.1: rank 0 runs on gpu1.invalid" in found(repository, hosts=elsewhere)[0]
    assert found(repository, hosts=elsewhere, host="0.0.0.0") == []
    assert found(repository, hosts=(Host("localhost", 2),)) == []


def test_a_full_dev_shm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(shm_problems(3)) == []
    full = (*os.statvfs("/dev/shm")[:3], 0, 0, *os.statvfs("/dev/shm")[5:])
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(full))
    (line,) = shm_problems(2)
    assert line.startswith(
        "/dev/shm has 0.0 MB free, but the instances of Python models, 2 in all, need 1 MB each"
    )


def test_a_pipe_is_not_read(repository: Path) -> None:
    config = repository / "preprocessing" / "config.pbtxt"
    config.unlink()
    os.mkfifo(config)
    assert found(repository) == [
        f"{config}: not a regular file; replace it by the model's configuration"
    ]


def new_prefix() -> str:
    """One that no process of this machine has in its command line."""
    return f"trt-launch-{secrets.token_hex(6)}-"


def test_one_server_per_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    same = tmp_path / "link"
    same.symlink_to(repository)
    prefix, other = new_prefix(), new_prefix()
    with locked(repository, prefix, force=False):
        with pytest.raises(LaunchError) as caught, locked(same, other, force=False):
            pass
        assert f"another launch_server (pid {os.getpid()}) serves {same}" in str(caught.value)
        with locked(same, other, force=True):
            pass
    with locked(same, other, force=False):
        pass


def test_a_start_waits_for_the_servers_of_a_killed_launcher(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    prefix = new_prefix()
    left = Path(f"/dev/shm/{prefix}mpi")
    left.mkdir()
    with locked(repository, prefix, force=False):
        pass
    code = "import time; time.sleep(1)"
    with subprocess.Popen([sys.executable, "-S", "-c", code, prefix]) as server:
        threading.Thread(target=server.wait, daemon=True).start()
        with locked(repository, new_prefix(), force=False):
            assert not is_running(server.pid)  # poll() says nothing while the thread waits
            assert not left.exists()


@pytest.mark.parametrize(
    ("environ", "leader"),
    [
        ({}, ""),
        # salloc's shell may run on a login node.
        ({"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "gpu1"}, "gpu1"),
        ({"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": socket.gethostname()}, ""),
        ({"SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "gpu[03-05]"}, "gpu03"),
        ({"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "a-1,b-[1,2]"}, "a-1"),
    ],
)
def test_rank_0_of_an_allocation(environ: dict[str, str], leader: str) -> None:
    assert slurm_leader(environ) == leader
