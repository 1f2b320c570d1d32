"""Launch options -> command lines."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from trt_tokenizers.errors import SettingsError
from trt_tokenizers.launcher.command import LaunchOptions, build_command
from trt_tokenizers.launcher.mpi import Host, Mpi
from trt_tokenizers.launcher.rank_protocol import RankCommand
from trt_tokenizers.launcher.tritonserver import TritonInstallation

SERVER = TritonInstallation(
    Path("/opt/tritonserver/bin/tritonserver"), env={"PATH": "/venv/bin:/bin"}
)
OPENMPI = Mpi("openmpi", "/usr/bin/mpirun")


def options(folder: Path = Path("models"), **more: object) -> LaunchOptions:
    return dataclasses.replace(LaunchOptions(folder), **more)  # type: ignore[arg-type]


def test_the_command_of_one_rank() -> None:
    command = build_command(options(shm_prefix="p", extra_args=("--log-format=ISO8601",)), SERVER)
    assert command.ranks.argv_of(0) == [
        "/opt/tritonserver/bin/tritonserver",
        "--model-repository=models",
        "--exit-timeout-secs=20",
        "--backend-config=python,shm-region-prefix-name=p-r0-",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--http-port=8000",
        "--grpc-port=8001",
        "--metrics-port=8002",
        "--log-format=ISO8601",
    ]
    assert command.ranks.follower == ()
    assert command.mpi == ()
    assert command.ranks.shm_prefix_of(0) == "p-r0-"
    assert command.ranks.launch_prefix == "p-"
    assert "PATH=/venv/bin:/bin" in command.ranks.env
    assert command.http_url == "http://127.0.0.1:8000"
    assert command.grpc_address == "127.0.0.1:8001"
    assert command.metrics_url == "http://127.0.0.1:8002/metrics"


def test_the_other_ranks_load_only_the_engine() -> None:
    command = build_command(
        options(
            shm_prefix="p", world_size=3, engine_models=("a", "b"), mpi=OPENMPI,
            extra_args=("--log-info=false",), gpu0_pool=7,
        ),
        SERVER,
    )  # fmt: skip
    assert command.ranks.argv_of(2) == [
        "/opt/tritonserver/bin/tritonserver",
        "--model-repository=models",
        "--exit-timeout-secs=20",
        "--backend-config=python,shm-region-prefix-name=p-r2-",
        "--disable-auto-complete-config",
        "--allow-http=false",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--model-control-mode=explicit",
        "--load-model=a",
        "--load-model=b",
        "--log-info=false",
    ]
    assert "--cuda-memory-pool-byte-size=0:7" in command.ranks.argv_of(0)
    assert command.ranks.rank_variable == "OMPI_COMM_WORLD_RANK"
    assert command.command[: len(command.mpi)] == command.mpi


def test_the_agents_command_line_round_trip() -> None:
    command = build_command(options(world_size=2, mpi=OPENMPI, log_dir=Path("/logs")), SERVER).ranks
    argv = command.to_argv("python")
    assert argv[:3] == ("python", "-I", "-S")
    assert RankCommand.from_argv(argv[4:]) == command


@pytest.mark.parametrize(
    ("hosts", "leader_host", "address", "url"),
    [
        ((), "", "127.0.0.1", "http://127.0.0.1:8000"),
        ((Host("gpu1", 2),), "", "127.0.0.1", "http://gpu1:8000"),
        ((Host("gpu1"), Host("gpu2")), "", "gpu1", "http://gpu1:8000"),
        ((Host("u@gpu1"), Host("u@gpu2")), "", "gpu1", "http://gpu1:8000"),
        ((), "gpu7", "gpu7", "http://gpu7:8000"),
    ],
)
def test_where_ranks_meet(
    hosts: tuple[Host, ...], leader_host: str, address: str, url: str
) -> None:
    wanted = options(
        world_size=2, host="0.0.0.0", hosts=hosts, leader_host=leader_host, mpi=OPENMPI,
        master_port=4242,
    )  # fmt: skip
    command = build_command(wanted, SERVER)
    assert f"MASTER_ADDR={address}" in command.ranks.env
    assert "MASTER_PORT=4242" in command.ranks.env
    assert command.http_url == url


def test_the_dry_run_can_be_pasted() -> None:
    wanted = options(
        Path("my models"), world_size=2, mpi=OPENMPI, hosts=(Host("a"), Host("b")), host="0.0.0.0"
    )
    command = build_command(wanted, SERVER)
    text = command.text()
    assert "#   rank 1 on b" in text
    assert tuple(shlex.split(text.replace("\\\n", ""), comments=True)) == command.command
    assert max(map(len, text.splitlines())) < 200


@pytest.mark.parametrize(
    ("more", "args", "spawn"),
    [
        ({"orchestrator": "spawn", "gpus": 2, "mpi": OPENMPI}, True, "1"),
        ({"orchestrator": "ranks", "gpus": 2, "mpi": OPENMPI, "world_size": 2}, False, "0"),
        ({}, False, None),
    ],
)
def test_several_engines(more: dict[str, object], args: bool, spawn: str | None) -> None:
    command = build_command(options(**more), SERVER).ranks
    pools = [a for a in command.leader if a.startswith("--cuda-memory-pool-byte-size")]
    assert pools == (
        ["--cuda-memory-pool-byte-size=0:0", "--cuda-memory-pool-byte-size=1:0"] if args else []
    )
    assert ("--enable-peer-access=false" in command.leader) is args
    variable = f"TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES={spawn}"
    assert (variable in command.env) is (spawn is not None)


def test_other_options() -> None:
    server = dataclasses.replace(SERVER, backend_directory=Path("/cache/backends"))
    command = build_command(
        options(
            host="0.0.0.0", log_verbose=2, auto_complete=True, wrapper=("trtllm-llmapi-launch",)
        ),
        server,
    )
    argv = command.ranks.leader
    assert argv[0] == "trtllm-llmapi-launch"
    assert "--http-address=0.0.0.0" in argv
    assert "--backend-directory=/cache/backends" in argv
    assert "--log-verbose=2" in argv
    assert "--disable-auto-complete-config" not in argv
    assert command.http_url == "http://127.0.0.1:8000", "reached from here"


def test_each_launch_has_its_own_shared_memory() -> None:
    assert options().shm_prefix != options().shm_prefix


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"world_size": 3, "hosts": (Host("a"), Host("b")), "mpi": OPENMPI},
            "--world-size 3 is more than the 2 slots of the hosts (a:1, b:1)",
        ),
        (
            {"orchestrator": "spawn", "world_size": 2, "mpi": OPENMPI},
            "use --world-size 1, or add --disable-spawn-processes",
        ),
        ({"hosts": (Host("a"),)}, "--hosts and --hostfile need an MPI"),
        ({"mpi_args": ("-x",)}, "--mpi-arg need an MPI"),
        ({"hosts": (Host("u@a"),), "mpi": Mpi("slurm", "srun")}, "srun takes no user@host; give"),
        ({"host": "localhost"}, "--host localhost: Triton accepts only an IPv4 address"),
        ({"host": "::1"}, "--host ::1: Triton accepts only an IPv4 address"),
        ({"grpc_port": 8000}, "are equal; give three"),
        ({"extra_args": ("--http-port=1",)}, "use --http-port before the --"),
        ({"extra_args": ("--model-store", "x")}, "use --model-repo before the --"),
        ({"extra_args": ("--allow-http=false",)}, "it must stay on"),
    ],
)
def test_refused_options(more: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build_command(options(**more), SERVER)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
