"""Two hosts on one machine: network namespaces with separate addresses, connected by a veth pair.

They share files, processes and /dev/shm with this machine, but not the network: each reaches only
the other. Each has a host name, and an /etc/hosts with both names. A script replaces ssh.

MPI needs, by experiment (Open MPI 5.0.11; 4.1.4 and MPICH 5.0.2 start their ranks too):

* different host names. With equal names, Open MPI assumes that its ranks share memory, and
  MPI_Allreduce gives wrong numbers; hence ``unshare --uts`` in the script.
* the loopback interface up. Otherwise MPI_Init waits forever.

It needs no choice of interfaces (``--prtemca prte_if_include``): in a namespace, mpirun sees only
the veth interface and the loopback.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NAMESPACES = Path("/run/netns")
_PREFIX = "trt-tests-"
_CLONE_NEWNET = 0x40000000

_AGENT = """\
#!/bin/sh
# Replaces ssh: [options] host command...
while [ "${{1#-}}" != "$1" ]; do shift; done
host=$1
shift
case $host in
{cases}
  *) echo "there is no host $host" >&2; exit 255 ;;
esac
# The command is shell text, as with ssh.
exec {enter} sh -c "$*"
"""

#: Shell text that runs a command on a host. Not ip netns exec, which hides /sys/fs/cgroup.
_ENTER = """\
nsenter --net=/run/netns/{namespace} unshare --uts --mount \
sh -c 'hostname {namespace}; mount --bind {names} /etc/hosts; exec "$@"' sh"""


@dataclass(frozen=True)
class TwoHosts:
    """Two hosts; run mpirun inside the first.

    Attributes:
        addresses: IPv4, of each.
        namespaces: network namespace of each, which is also its host name.
        agent: a program that runs a command on a host, called like ssh.
    """

    addresses: tuple[str, str]
    namespaces: tuple[str, str]
    agent: Path

    def argv(self, index: int, *argv: str) -> list[str]:
        """The command that runs *argv* on host *index*: network, host name, /etc/hosts."""
        return [str(self.agent), self.addresses[index], shlex.join(argv)]

    @property
    def environ(self) -> dict[str, str]:
        """The environment with which Open MPI 4 and 5 and Hydra reach the hosts by the agent."""
        agent = str(self.agent)
        return {
            **os.environ,
            "PRTE_MCA_plm_ssh_agent": agent,  # Open MPI 5
            "OMPI_MCA_plm_rsh_agent": agent,  # Open MPI 4
            "HYDRA_LAUNCHER_EXEC": agent,
        }

    def processes(self, index: int) -> list[str]:
        """Ids of the processes in the network of host *index*."""
        return _ip(f"netns pids {self.namespaces[index]}").split()

    @contextlib.contextmanager
    def inside(self, index: int) -> Iterator[None]:
        """Put this thread and its new processes into the network of host *index* for the block."""
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(namespace: Path) -> None:
            with namespace.open() as file:
                if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {namespace}")

        with Path("/proc/thread-self/ns/net").open() as own:
            enter(_NAMESPACES / self.namespaces[index])
            try:
                yield
            finally:
                enter(Path(f"/proc/thread-self/fd/{own.fileno()}"))


def missing() -> str | None:
    """Why the hosts cannot exist, with the fix, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root; run the tests as root"
    programs = [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]
    if programs:
        return f"no {' and no '.join(programs)} here; apt-get install iproute2 util-linux"
    done = subprocess.run(
        shlex.split("unshare --net --uts ip link add name left type veth peer name right"),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        why = done.stderr.strip().replace("\n", " ")
        return f"no network namespaces here ({why}); a container needs CAP_SYS_ADMIN, CAP_NET_ADMIN"
    return None


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[TwoHosts]:
    """Make the two hosts; their processes and they themselves are gone when the block ends.

    Args:
        folder: takes the agent.
    """
    _remove_leftovers()
    # Nobody else's addresses: they exist in these namespaces only, so any will do.
    addresses = ("10.217.0.1", "10.217.0.2")
    first, second = namespaces = (f"{_PREFIX}{os.getpid()}-0", f"{_PREFIX}{os.getpid()}-1")
    agent = folder / "agent"
    names = folder / "hosts"
    both = list(zip(addresses, namespaces, strict=True))
    names.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for a, n in both))
    cases = "\n".join(f"  {a}|{n}) namespace={n} ;;" for a, n in both)
    enter = _ENTER.format(namespace="$namespace", names=names)
    # Inside the quotes of sh -c the shell does not see $namespace.
    enter = enter.replace("hostname $namespace", "hostname '$namespace'")
    agent.write_text(_AGENT.format(cases=cases, enter=enter))
    agent.chmod(0o755)
    try:
        for namespace in namespaces:
            _ip(f"netns add {namespace}")
        _ip(f"-n {first} link add cable type veth peer name cable netns {second}")
        for namespace, address in zip(namespaces, addresses, strict=True):
            _ip(f"-n {namespace} address add {address}/24 dev cable")
            _ip(f"-n {namespace} link set lo up")
            _ip(f"-n {namespace} link set cable up")
        yield TwoHosts(addresses, namespaces, agent)
    finally:
        for namespace in namespaces:
            _remove(namespace)


def _ip(arguments: str) -> str:
    done = subprocess.run(
        ["ip", *shlex.split(arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"ip {arguments}: {done.stderr}"
    return done.stdout


def _remove(namespace: str) -> None:
    """Kill the processes in a namespace, then remove it."""
    if not (_NAMESPACES / namespace).exists():
        return
    deadline = time.monotonic() + 10
    while pids := set(map(int, _ip(f"netns pids {namespace}").split())) - {os.getpid()}:
        assert time.monotonic() < deadline, f"{pids} in {namespace} do not end"
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    _ip(f"netns delete {namespace}")


def _remove_leftovers() -> None:
    """Remove namespaces of tests that were killed."""
    for path in _NAMESPACES.glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            _remove(path.name)
