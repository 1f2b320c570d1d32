"""A deployment -> the command lines of its ranks.

Pure: `build_command` touches no file, no port and no process. `preflight` looks what is
wrong before a start, `supervisor` acts.
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

#: Triton's flags that have an option here, because readiness, checks or clean-up hang on them.
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
_PEER_ACCESS_SINCE = (2, 47)  # Triton 24.06: it has --enable-peer-access


def new_shm_prefix() -> str:
    """A prefix for files in /dev/shm that no other launch has."""
    return f"trt-launch-{secrets.token_hex(6)}"


@dataclass(frozen=True)
class LaunchOptions:
    """What the user asks for.

    Attributes:
        model_repository: the folder of the models.
        world_size: ranks; one tritonserver each.
        host: address that the ports are bound to, on the host of rank 0.
        exit_timeout: seconds that running requests may take to finish once a stop was asked for.
        shm_prefix: its files in /dev/shm begin with this; unique on every host.
        log_verbose: Triton's ``--log-verbose``; 0 is off.
        log_dir: each rank writes ``rankN.log`` in it.
        auto_complete: let Triton complete model configurations. Each Python model is then loaded
            twice, which costs its imports again: 3 s for one that imports transformers.
        extra_args: passed to tritonserver after all others.
        engine_models: what ranks other than 0 load.
        mpi: what starts the ranks.
        mpi_args: passed to mpirun or srun as they are.
        hosts: where the ranks go; empty for this host, or for Slurm's choice.
        leader_host: the host of rank 0 where Slurm chooses among several; else empty.
        master_port: where rank 0's engine meets the others (torch.distributed).
        oversubscribe: more ranks on a host than it has cores or slots.
        root: it is started by root.
        orchestrator: TensorRT-LLM's orchestrator mode, for several engine models: ``spawn`` lets
            each model start its own ranks, ``ranks`` shares ours; empty for neither.
        gpus: how many this host has.
        gpu0_pool: bytes of rank 0's CUDA memory pool on GPU 0; 0 for Triton's default.
        wrapper: stands before tritonserver on every rank.
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
    """What to start, and where rank 0 is reached from this host.

    Attributes:
        mpi: the argv that runs the agent on every rank; empty without MPI.
        ranks: what the agent runs.
        ranks_on: the host of each rank; empty if that is this one, or Slurm's to choose.
        exit_timeout: seconds, as in the deployment.
        shm_prefix: of all ranks.
    """

    world_size: int
    mpi: tuple[str, ...]
    ranks: RankCommand
    ranks_on: tuple[str, ...]
    http_url: str
    grpc_address: str
    metrics_url: str
    exit_timeout: int
    shm_prefix: str

    @property
    def command(self) -> tuple[str, ...]:
        """The one command that starts all ranks."""
        return (*self.mpi, *self.ranks.to_argv(sys.executable))

    def text(self) -> str:
        """The command to be read, and to be pasted into a shell."""
        lines = [f"# {self.world_size} rank{'s' if self.world_size > 1 else ''}"]
        if self.ranks_on:
            lines += [f"#   rank {rank} on {host}" for rank, host in enumerate(self.ranks_on)]
        words = list(map(shlex.quote, self.command))
        head = len(self.mpi) + 4
        command = [" ".join(words[: len(self.mpi)])] if self.mpi else []
        command.append(" ".join(words[len(self.mpi) : head]))
        command += words[head:]
        # A flag and the program behind it share a line: --leader tritonserver.
        text = " \\\n    ".join(command)
        text = re.sub(r"(--leader|--follower) \\\n    ", r"\1 ", text)
        return "\n".join([*lines, text])


def build_command(deployment: LaunchOptions, server: TritonInstallation) -> LaunchCommand:
    """The ranks of *deployment*, run by *server*.

    Raises:
        SettingsError: two settings contradict each other, or one cannot be served.
    """
    d = deployment
    _refuse(d)
    ranks_on = place(d.world_size, d.hosts)
    leader_host = ranks_on[0] if ranks_on else d.leader_host
    # What 0.0.0.0 binds to is reached from rank 0's own host on the loopback address.
    reached = (leader_host or "127.0.0.1") if d.host == "0.0.0.0" else d.host
    several_hosts = len(set(ranks_on)) > 1 or (not ranks_on and d.leader_host)
    env = {
        # Behind a pipe Python keeps what models print until 8 KB have come together.
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
            d.mpi,
            d.world_size,
            ranks_on=ranks_on,
            oversubscribe=d.oversubscribe,
            root=d.root,
            more=d.mpi_args,
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
        http_url=f"http://{reached}:{d.http_port}",
        grpc_address=f"{reached}:{d.grpc_port}",
        metrics_url=f"http://{reached}:{d.metrics_port}/metrics",
        exit_timeout=d.exit_timeout,
        shm_prefix=f"{d.shm_prefix}-",
    )


def _refuse(d: LaunchOptions) -> None:
    try:
        ipaddress.IPv4Address(d.host)
    except ValueError:
        # Given a name, Triton's HTTP ports bind to 255.255.255.255 without a word.
        raise SettingsError(
            f"--host {d.host}: Triton takes a plain IPv4 address only; give e.g. 127.0.0.1, "
            "or 0.0.0.0 for all"
        ) from None
    if len(set(d.ports.values())) < len(d.ports):
        raise SettingsError(
            "two of --http-port, --grpc-port and --metrics-port are the same; give three"
        )
    for argument in d.extra_args:
        flag = argument.partition("=")[0]
        if flag in _OURS:
            mend = f"use {_OURS[flag]} before the --" if _OURS[flag] else "it has to stay on"
            raise SettingsError(f"{flag} cannot be given to tritonserver directly; {mend}")
    if d.orchestrator == "spawn" and d.world_size > 1:
        raise SettingsError(
            f"--multi-model starts each model's ranks by itself, and --world-size is "
            f"{d.world_size}; use --world-size 1, or --disable-spawn-processes with it"
        )
    if d.mpi.flavour == "none" and (d.hosts or d.mpi_args):
        option = "--hosts and --hostfile" if d.hosts else "--mpi-arg"
        raise SettingsError(
            f"{option} need an MPI, and one rank is started without; name one with --mpi"
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
    if d.orchestrator == "spawn" and _version(server) > _PEER_ACCESS_SINCE:
        # The models' own ranks need the memory that this process would only set aside.
        argv += ["--pinned-memory-pool-byte-size=0", "--enable-peer-access=false"]
        argv += [f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(d.gpus)]
    return argv


def _version(server: TritonInstallation) -> tuple[int, ...]:
    """A server that does not say counts as new."""
    numbers = re.findall(r"\d+", server.version or "99")
    return tuple(map(int, numbers[:2]))


def _leader_args(d: LaunchOptions) -> list[str]:
    args = [
        f"--http-address={d.host}",  # the metrics port follows this address by default
        f"--http-port={d.http_port}",
        f"--grpc-address={d.host}",
        f"--grpc-port={d.grpc_port}",
        f"--metrics-port={d.metrics_port}",
    ]
    if d.gpu0_pool:
        args.append(f"--cuda-memory-pool-byte-size=0:{d.gpu0_pool}")
    return args


def _follower_args(d: LaunchOptions) -> list[str]:
    return [
        *("--allow-http=false", "--allow-grpc=false", "--allow-metrics=false"),
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in d.engine_models),
    ]
