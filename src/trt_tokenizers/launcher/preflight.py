"""Finds problems that would make a launch fail, before anything starts.

It checks the repository, the ports and /dev/shm of this host, not those of other hosts.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from trt_tokenizers.launcher.command import LaunchOptions
from trt_tokenizers.launcher.mpi import Host, first_host, place
from trt_tokenizers.streams.stream_folder import SHM

#: Bytes of /dev/shm that the process of a Python model's instance uses at its start.
_SHM_OF_A_PROCESS = 2**20


def problems(options: LaunchOptions) -> Iterator[str]:
    """The problems of a launch: one line each, with the fix."""
    d = options
    yield from _repository_problems(d.model_repository)
    if d.world_size > 1:
        for model in d.engine_models:
            if d.model_repository.is_dir() and not (d.model_repository / model).is_dir():
                yield (
                    f"--tensorrt-llm-model-name {model}: {d.model_repository} has no such model, "
                    "which the other ranks must load; give the name of its engine model"
                )
    leader = d.hosts[0].address if d.hosts else d.leader_host
    if not leader or is_local(leader):
        for option, port in d.ports.items():
            yield from port_problems(option, d.host, port)
    elif ipaddress.ip_address(d.host).is_loopback:
        yield (
            f"--host {d.host}: rank 0 runs on {leader} and cannot be reached from this host; "
            "give --host 0.0.0.0, or an address of that host"
        )


def is_local(host: str) -> bool:
    """Whether *host* is a name or an address of this machine."""
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        addresses = socket.getaddrinfo(host, 0, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return False
    for *_, address in addresses:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(address)
            return True
    return False


def shm_problems(python_processes: int) -> Iterator[str]:
    """Whether /dev/shm has room for the start of so many processes of Python models."""
    space = os.statvfs(SHM)
    free = space.f_bavail * space.f_frsize
    if free < python_processes * _SHM_OF_A_PROCESS:
        yield (
            f"{SHM} has {free / 2**20:.1f} MB free, but the instances of Python models, "
            f"{python_processes} in all, need 1 MB each at their start; remove old files from it, "
            "or give the container more (--shm-size)"
        )


def _repository_problems(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        yield f"--model-repo {folder}: no such folder; give a model repository"
        return
    configs = sorted(folder.glob("*/config.pbtxt"))
    if not configs:
        fix = "generate writes a repository"
        if (folder / "config.pbtxt").is_file():
            fix = f"it is a model; give its parent folder: {folder.absolute().parent}"
        yield f"--model-repo {folder}: no model in it has a config.pbtxt; {fix}"
    for config in configs:
        if not config.is_file():  # reading a pipe would wait for its writer
            yield f"{config}: not a regular file; replace it by the model's configuration"


def port_problems(option: str, host: str, port: int) -> Iterator[str]:
    """Why this host cannot bind *port*, with the fix; *option* chose it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            yield f"{option} {port}: no permission to bind it; use a port above 1023"
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                yield f"{option} {port} is in use{_user_of(port)}; stop it or use another port"
            else:
                yield f"{option} {port} cannot be bound on --host {host}: {error.strerror}"


def _user_of(port: int) -> str:
    """The process that listens on *port*, as " by pid 12 (tritonserver)"; empty if /proc does not
    show it."""
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


def free_port() -> int:
    """A port of this host that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def ranks_here(options: LaunchOptions) -> int:
    """The number of ranks on this host; 0 if Slurm decides that."""
    d = options
    if d.hosts:
        names = place(d.world_size, d.hosts)
        return sum(names.count(n) for n in set(names) if is_local(Host(n).address))
    return 0 if d.leader_host else d.world_size


def slurm_leader(environ: Mapping[str, str]) -> str:
    """The host of rank 0 in a Slurm allocation; empty if the allocation is only this node.

    The shell of salloc may run on a login node, outside the allocation.
    """
    first = first_host(environ.get("SLURM_JOB_NODELIST", ""))
    one = environ.get("SLURM_JOB_NUM_NODES", "1") == "1"
    return "" if one and (not first or is_local(first)) else first
