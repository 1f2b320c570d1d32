"""A deployment -> the command lines of its ranks, and what is wrong before they start.

`plan` is pure: it touches no file, no port and no process. `problems` looks at the repository and
the ports. `trt_tokenizers.supervise` acts.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trt_tokenizers.errors import SettingsError
from trt_tokenizers.server import Server

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


def new_shm_prefix() -> str:
    """A prefix for files in /dev/shm that no other launch has."""
    return f"trt-launch-{secrets.token_hex(6)}"


@dataclass(frozen=True)
class Deployment:
    """What the user asks for.

    Attributes:
        model_repository: the folder of the models.
        world_size: ranks; one tritonserver each.
        host: address that the ports are bound to.
        exit_timeout: seconds that running requests may take to finish once a stop was asked for.
        shm_prefix: its files in /dev/shm begin with this; unique on the host.
        log_verbose: Triton's ``--log-verbose``; 0 is off.
        auto_complete: let Triton complete model configurations. Each Python model is then loaded
            twice, which costs its imports again: 3 s for one that imports transformers.
        extra_args: passed to tritonserver after all others.
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
    auto_complete: bool = False
    extra_args: tuple[str, ...] = ()

    @property
    def ports(self) -> dict[str, int]:
        """Option name -> port."""
        return {
            "--http-port": self.http_port,
            "--grpc-port": self.grpc_port,
            "--metrics-port": self.metrics_port,
        }


@dataclass(frozen=True)
class Rank:
    """One tritonserver: its command line, the variables to set for it, its shared memory."""

    index: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    shm_prefix: str


@dataclass(frozen=True)
class Plan:
    """The ranks to start and where rank 0 is reached from this host.

    Attributes:
        exit_timeout: seconds, as in the deployment.
    """

    ranks: tuple[Rank, ...]
    http_url: str
    grpc_address: str
    metrics_url: str
    exit_timeout: int


def plan(deployment: Deployment, server: Server) -> Plan:
    """The ranks of *deployment*, run by *server*.

    Raises:
        SettingsError: two settings contradict each other, or one cannot be served.
    """
    d = deployment
    if d.world_size != 1:
        raise SettingsError(
            f"--world-size {d.world_size}: several MPI ranks cannot be launched yet; "
            "use --world-size 1"
        )
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
    # What 0.0.0.0 binds to is reached from here on the loopback address.
    reached = "127.0.0.1" if d.host == "0.0.0.0" else d.host
    return Plan(
        ranks=(_leader(d, server),),
        http_url=f"http://{reached}:{d.http_port}",
        grpc_address=f"{reached}:{d.grpc_port}",
        metrics_url=f"http://{reached}:{d.metrics_port}/metrics",
        exit_timeout=d.exit_timeout,
    )


def _leader(d: Deployment, server: Server) -> Rank:
    prefix = f"{d.shm_prefix}-r0-"
    argv = [
        str(server.executable),
        f"--model-repository={d.model_repository}",
        f"--http-address={d.host}",  # the metrics port follows this address by default
        f"--http-port={d.http_port}",
        f"--grpc-address={d.host}",
        f"--grpc-port={d.grpc_port}",
        f"--metrics-port={d.metrics_port}",
        f"--exit-timeout-secs={d.exit_timeout}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
    ]
    if server.backend_directory is not None:
        argv.append(f"--backend-directory={server.backend_directory}")
    if not d.auto_complete:
        argv.append("--disable-auto-complete-config")
    if d.log_verbose:
        argv.append(f"--log-verbose={d.log_verbose}")
    # Behind a pipe Python keeps what models print until 8 KB have come together.
    env = {"PYTHONUNBUFFERED": "1", **server.env}
    return Rank(0, (*argv, *d.extra_args), env, prefix)


def problems(deployment: Deployment) -> Iterator[str]:
    """What would keep *deployment* from starting: one line each, with the mend."""
    yield from _repository_problems(deployment.model_repository)
    for option, port in deployment.ports.items():
        yield from _port_problems(option, deployment.host, port)


def _repository_problems(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        yield f"--model-repo {folder}: there is no such folder; name a model repository"
        return
    configs = sorted(folder.glob("*/config.pbtxt"))
    if not configs:
        hint = ""
        if (folder / "config.pbtxt").is_file():
            hint = f"; it is a model itself, give the folder above it: {folder.absolute().parent}"
        yield f"--model-repo {folder}: no model in it has a config.pbtxt{hint}"
    for config in configs:
        for number, line in enumerate(config.read_text(errors="replace").splitlines(), 1):
            if "${" in line and not line.lstrip().startswith("#"):
                yield (
                    f"{config}:{number}: a placeholder was never filled: {line.strip()}; "
                    "fill_template gives it a value"
                )


def _port_problems(option: str, host: str, port: int) -> Iterator[str]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            yield f"{option} {port}: no permission to bind it; take one above 1023"
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                yield f"{option} {port} is in use{_user_of(port)}; end that or take another port"
            else:
                yield f"{option} {port} cannot be bound on --host {host}: {error.strerror}"


def _user_of(port: int) -> str:
    """« by pid 12 (tritonserver)» for who listens on *port*, as far as /proc may be read."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "0A":  # LISTEN
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and any(
                str(fd.readlink()) in inodes for fd in (process / "fd").iterdir()
            ):
                return f" by pid {process.name} ({(process / 'comm').read_text().strip()})"
    return ""
