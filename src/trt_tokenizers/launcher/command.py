"""Launch options -> the command lines of the ranks.

Pure: `build_command` uses no file, port or process. `preflight` checks the host before a start, and
`supervisor` runs the command.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from trt_tokenizers.errors import SettingsError
from trt_tokenizers.launcher.mpi import Host, Mpi, mpi_argv, place
from trt_tokenizers.launcher.rank_protocol import RankCommand
from trt_tokenizers.launcher.tritonserver import TritonInstallation

#: Triton's flags -> our options for them, whose values readiness, checks and clean-up need.
_OURS = {
    "--model-repository": "--model-repo",
    "--model-store": "--model-repo",
    "--http-address": "--host",
    "--grpc-address": "--host",
    "--http-port": "--http-port",
    "--grpc-port": "--grpc-port",
    "--metrics-port": "--metrics-port",
    "--exit-timeout-secs": "--exit-timeout",
    "--allow-http": "",
}
_PEER_ACCESS_SINCE = (2, 47)  # Triton 24.06 introduced --enable-peer-access


def new_shm_prefix() -> str:
    """A new unique prefix for the files of one launch in /dev/shm."""
    return f"trt-launch-{secrets.token_hex(6)}"


@dataclass(frozen=True)
class LaunchOptions:
    """The user's options for one launch.

    Attributes:
        model_repository: the folder of the models.
        world_size: number of ranks; each runs one tritonserver.
        host: address that the ports are bound to, on the host of rank 0.
        exit_timeout: seconds for running requests to finish after a stop request.
        shm_prefix: begins the names of all files in /dev/shm; unique on every host.
        log_verbose: Triton's ``--log-verbose``; 0 is off.
        log_dir: folder in which each rank writes ``rankN.log``.
        auto_complete: let Triton complete model configurations. It then loads each Python model
            twice, which repeats its imports: 3 s for one that imports transformers.
        extra_args: tritonserver's last arguments.
        engine_models: the models that ranks other than 0 load.
        mpi: the MPI that starts the ranks.
        mpi_args: additional arguments of mpirun or srun.
        hosts: the hosts of the ranks; empty for this host, or for Slurm's choice.
        leader_host: the host of rank 0 if Slurm chooses among several; else empty.
        master_port: port on which the engines' ranks meet (torch.distributed).
        oversubscribe: allow more ranks on a host than it has cores or slots.
        root: the user is root.
        orchestrator: TensorRT-LLM's orchestrator mode, for several engine models: ``spawn`` lets
            each model start its own ranks, ``ranks`` shares ours; empty for neither.
        gpus: number of GPUs of this host.
        gpu0_pool: bytes of rank 0's CUDA memory pool on GPU 0; 0 for Triton's default.
        wrapper: command before tritonserver on every rank.
    """

    model_repository: Path
    world_size: int = 1
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    exit_timeout: int = 20
    shm_prefix: str = field(default_factory=new_shm_prefix)
    log_verbose: int = 0
    log_dir: Path | None = None
    auto_complete: bool = False
    extra_args: tuple[str, ...] = ()
    engine_models: tuple[str, ...] = ("tensorrt_llm",)
    mpi: Mpi = field(default_factory=lambda: Mpi("none"))
    mpi_args: tuple[str, ...] = ()
    hosts: tuple[Host, ...] = ()
    leader_host: str = ""
    master_port: int = 29500
    oversubscribe: bool = False
    root: bool = False
    orchestrator: str = ""
    gpus: int = 0
    gpu0_pool: int = 0
    wrapper: tuple[str, ...] = ()

    @property
    def ports(self) -> dict[str, int]:
        """Option name -> port."""
        return {
            "--http-port": self.http_port,
            "--grpc-port": self.grpc_port,
            "--metrics-port": self.metrics_port,
        }


@dataclass(frozen=True)
class LaunchCommand:
    """What to start, and the addresses of rank 0 seen from this host.

    Attributes:
        mpi: the argv that runs the agent on every rank; empty without MPI.
        ranks: what the agent runs.
        ranks_on: the host of each rank; empty for this host, or for Slurm's choice.
    """

    world_size: int
    mpi: tuple[str, ...]
    ranks: RankCommand
    ranks_on: tuple[str, ...]
    http_url: str
    grpc_address: str
    metrics_url: str

    @property
    def command(self) -> tuple[str, ...]:
        """The single command that starts all ranks."""
        return (*self.mpi, *self.ranks.to_argv(sys.executable))

    def text(self) -> str:
        """The command in a readable form that can be pasted into a shell."""
        lines = [f"# {self.world_size} rank{'s' if self.world_size > 1 else ''}"]
        lines += [f"#   rank {rank} on {host}" for rank, host in enumerate(self.ranks_on)]
        words = list(map(shlex.quote, self.command))
        head = len(self.mpi) + 4
        command = [" ".join(words[: len(self.mpi)])] if self.mpi else []
        command.append(" ".join(words[len(self.mpi) : head]))
        command += words[head:]
        # Keep a flag and its program on one line: --leader tritonserver.
        text = " \\\n    ".join(command)
        text = re.sub(r"(--leader|--follower) \\\n    ", r"\1 ", text)
        return "\n".join([*lines, text])


def build_command(options: LaunchOptions, server: TritonInstallation) -> LaunchCommand:
    """The command that runs *server* on every rank.

    Raises:
        SettingsError: two options contradict each other, or Triton does not support one.
    """
    d = options
    _refuse(d)
    ranks_on = place(d.world_size, d.hosts)
    leader_host = d.hosts[0].address if d.hosts else d.leader_host
    # A server bound to 0.0.0.0 is reached from its own host at the loopback address.
    address = (leader_host or "127.0.0.1") if d.host == "0.0.0.0" else d.host
    several_hosts = len(set(ranks_on)) > 1 or (not ranks_on and d.leader_host)
    env = {
        # Otherwise Python buffers up to 8 KB of the models' output in the pipe.
        "PYTHONUNBUFFERED": "1",
        **server.env,
        "MASTER_ADDR": leader_host if several_hosts else "127.0.0.1",
        "MASTER_PORT": str(d.master_port),
    }
    if d.orchestrator:
        env["TRTLLM_ORCHESTRATOR"] = "1"
        env["TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES"] = str(int(d.orchestrator == "spawn"))
    shm_prefix = f"{d.shm_prefix}-r{{rank}}-"
    common = _common_argv(d, server, shm_prefix)
    return LaunchCommand(
        world_size=d.world_size,
        mpi=mpi_argv(
            d.mpi, d.world_size, ranks_on, d.mpi_args, root=d.root, oversubscribe=d.oversubscribe
        ),
        ranks=RankCommand(
            leader=(*common, *_leader_args(d), *d.extra_args),
            follower=(*common, *_follower_args(d), *d.extra_args) if d.world_size > 1 else (),
            shm_prefix=shm_prefix,
            env=tuple(f"{name}={value}" for name, value in env.items()),
            rank_variable=d.mpi.rank_variable,
            drain=d.exit_timeout,
            log_dir=str(d.log_dir) if d.log_dir else "",
        ),
        ranks_on=ranks_on,
        http_url=f"http://{address}:{d.http_port}",
        grpc_address=f"{address}:{d.grpc_port}",
        metrics_url=f"http://{address}:{d.metrics_port}/metrics",
    )


def _refuse(d: LaunchOptions) -> None:
    try:
        ipaddress.IPv4Address(d.host)
    except ValueError:
        # Triton's HTTP ports silently bind a name as 255.255.255.255.
        raise SettingsError(
            f"--host {d.host}: Triton accepts only an IPv4 address; give e.g. 127.0.0.1, "
            "or 0.0.0.0 for all"
        ) from None
    if len(set(d.ports.values())) < len(d.ports):
        raise SettingsError(
            "two of --http-port, --grpc-port and --metrics-port are equal; give three ports"
        )
    for argument in d.extra_args:
        flag = argument.partition("=")[0]
        if flag in _OURS:
            fix = f"use {_OURS[flag]} before the --" if _OURS[flag] else "it must stay on"
            raise SettingsError(f"{flag} cannot be given to tritonserver directly; {fix}")
    if d.orchestrator == "spawn" and d.world_size > 1:
        raise SettingsError(
            f"--multi-model lets each model start its own ranks, but --world-size is "
            f"{d.world_size}; use --world-size 1, or add --disable-spawn-processes"
        )
    if d.mpi.flavour == "slurm" and any(host.name != host.address for host in d.hosts):
        raise SettingsError("--hosts: srun takes no user@host; give the hosts without a user")
    if d.mpi.flavour == "none" and (d.hosts or d.mpi_args):
        option = "--hosts and --hostfile" if d.hosts else "--mpi-arg"
        raise SettingsError(
            f"{option} need an MPI, but one rank starts without MPI; choose one with --mpi"
        )


def _common_argv(d: LaunchOptions, server: TritonInstallation, shm_prefix: str) -> list[str]:
    argv = [
        *d.wrapper,
        str(server.executable),
        f"--model-repository={d.model_repository}",
        f"--exit-timeout-secs={d.exit_timeout}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
    ]
    if server.backend_directory is not None:
        argv.append(f"--backend-directory={server.backend_directory}")
    if not d.auto_complete:
        argv.append("--disable-auto-complete-config")
    if d.log_verbose:
        argv.append(f"--log-verbose={d.log_verbose}")
    version = re.findall(r"\d+", server.version or "99")  # an unknown one counts as new
    if d.orchestrator == "spawn" and tuple(map(int, version[:2])) > _PEER_ACCESS_SINCE:
        # The models' own ranks need the memory that this process would reserve.
        argv += ["--pinned-memory-pool-byte-size=0", "--enable-peer-access=false"]
        argv += [f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(d.gpus)]
    return argv


def _leader_args(d: LaunchOptions) -> list[str]:
    # The metrics port follows the HTTP address by default.
    args = [f"--http-address={d.host}", f"--grpc-address={d.host}"]
    args += [f"{option}={port}" for option, port in d.ports.items()]
    if d.gpu0_pool:
        args.append(f"--cuda-memory-pool-byte-size=0:{d.gpu0_pool}")
    return args


def _follower_args(d: LaunchOptions) -> list[str]:
    return [
        *("--allow-http=false", "--allow-grpc=false", "--allow-metrics=false"),
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in d.engine_models),
    ]
