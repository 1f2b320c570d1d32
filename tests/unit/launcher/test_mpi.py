"""Which MPI is found, and its command line."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest

from trt_tokenizers.errors import LaunchError, SettingsError
from trt_tokenizers.launcher.mpi import (
    Host,
    Mpi,
    find_mpi,
    first_host,
    mpi_argv,
    parse_hosts,
    place,
    read_hostfile,
)

OPEN_5, OPEN_4 = "mpirun (Open MPI) 5.0.11", "mpirun.openmpi (OpenRTE) 4.1.4"
HYDRA, OTHER = "HYDRA build details:\n    Version: 5.0.2", "mpirun of somebody 1.0"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only place with programs."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    return tmp_path


def program(folder: Path, name: str, output: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return str(path)


def find(folder: Path, wanted: str | None = None, n: int = 2, **environ: str) -> Mpi:
    return find_mpi(wanted, n, {"PATH": str(folder), **environ})


@pytest.mark.parametrize(
    ("output", "flavour"),
    [
        (OPEN_5, "openmpi"), (OPEN_4, "openmpi"), (HYDRA, "mpich"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.11", "mpich"), (OTHER, None),
    ],
)  # fmt: skip
def test_flavours_by_version(programs: Path, output: str, flavour: str | None) -> None:
    program(programs, "mpirun", output)
    with contextlib.nullcontext() if flavour else pytest.raises(LaunchError, match="is neither"):
        assert find(programs).flavour == flavour


def test_one_rank_needs_no_mpi(programs: Path) -> None:
    assert find(programs, n=1) == Mpi("none")
    assert find(programs, "none", n=1) == Mpi("none")


def test_the_mpirun_on_path(programs: Path) -> None:
    mpirun = program(programs, "mpirun", OPEN_5)
    assert find(programs, n=2) == Mpi("openmpi", mpirun)
    assert find(programs, "openmpi", n=1).flavour == "openmpi"


def test_srun_inside_an_allocation(programs: Path) -> None:
    mpirun = program(programs, "mpirun", HYDRA)
    srun = program(programs, "srun", "slurm 22")
    assert find(programs) == Mpi("mpich", mpirun)
    assert find(programs, SLURM_JOB_ID="1") == Mpi("slurm", srun)
    assert find(programs, "mpich", SLURM_JOB_ID="1") == Mpi("mpich", mpirun)
    assert find(programs, "slurm") == Mpi("slurm", srun)


def test_an_mpi_is_found_by_its_own_program_name(programs: Path) -> None:
    program(programs, "mpirun", HYDRA)
    own = program(programs, "mpirun.openmpi", OPEN_4)
    assert find(programs, "openmpi") == Mpi("openmpi", own)


def test_an_explicit_program(programs: Path) -> None:
    other = program(programs, "other", HYDRA)
    program(programs, "mpirun", OPEN_5)
    assert find_mpi(None, 1, {"PATH": str(programs)}, other) == Mpi("mpich", other)


def test_errors_name_the_missing_part_and_the_fix(programs: Path) -> None:
    with pytest.raises(LaunchError, match=r"needs mpirun, and there is none on PATH; pip install"):
        find(programs)
    with pytest.raises(LaunchError, match=r"--mpi slurm: no srun on PATH"):
        find(programs, "slurm")
    with pytest.raises(SettingsError, match=r"--mpi none starts one rank, and --world-size is 2"):
        find(programs, "none")
    program(programs, "mpirun", OTHER)
    with pytest.raises(LaunchError, match=r"is neither Open MPI's nor Hydra's; give another"):
        find(programs)
    program(programs, "mpirun", HYDRA)
    with pytest.raises(LaunchError, match=r"belongs to mpich; use --mpi mpich, or give"):
        find(programs, "openmpi")


def test_hosts(tmp_path: Path) -> None:
    assert parse_hosts("a:2,b.c-d") == (Host("a", 2), Host("b.c-d", 1))
    file = tmp_path / "hosts"
    file.write_text("# the cluster\na slots=2\nb:1 # slow\n\nc slots = 3\n")
    assert read_hostfile(file) == (Host("a", 2), Host("b", 1), Host("c", 3))
    assert place(4, read_hostfile(file)) == ("a", "a", "b", "c")
    assert place(4, ()) == ()
    assert parse_hosts("root@a:2,al.ice@10.0.0.1") == (Host("root@a", 2), Host("al.ice@10.0.0.1"))
    assert parse_hosts("root@a:2")[0].address == "a"
    file.write_text("u@a slots=2 max_slots=4\nb max-slots = 3\nc slots=1 max-slots=1\n\td  # x\n")
    assert read_hostfile(file) == (Host("u@a", 2), Host("b", 3), Host("c", 1), Host("d", 1))


@pytest.mark.parametrize("text", ["", "a:", "a:0", "a:x", "a b", "a,,b", "@a", "u@", "u@b@c"])
def test_invalid_lists_of_hosts(text: str) -> None:
    with pytest.raises(SettingsError, match="is not a host; write host or host:ranks"):
        parse_hosts(text)


def test_invalid_hostfiles(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_hostfile(tmp_path / "nowhere")
    file = tmp_path / "hosts"
    file.write_text("# empty\n")
    with pytest.raises(SettingsError, match="contains no host"):
        read_hostfile(file)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="pipe: not a regular file; give a text file"):
        read_hostfile(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b slots=x", "'slots=x' is not understood; write host slots=n max_slots=n"),
        ("b cpus=2", "'cpus=2' is not understood; write host slots=n max_slots=n"),
        ("b slots=1 slots=2", "'slots=2' is not understood"),
        ("b c", "'c' is not understood"),
        ("b:2 slots=2", "'b:2 slots=2' has two numbers of ranks; write one"),
        ("b slots=3 max_slots=2", "max_slots=2 is less than slots=3; raise it"),
        ("b:x", "'b:x' is not a host; write host or host:ranks"),
    ],
)
def test_invalid_lines_of_a_hostfile(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(f"a\n{line}\n")
    with pytest.raises(SettingsError) as caught:
        read_hostfile(file)
    assert str(caught.value).startswith(f"--hostfile {file}:2: {message}")


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [("gpu1", "gpu1"), ("a,b", "a"), ("g[03-06,9],x", "g03"), ("g[1,3]-ib", "g1-ib"), ("", "")],
)
def test_the_first_of_slurms_nodes(nodelist: str, first: str) -> None:
    assert first_host(nodelist) == first


@pytest.mark.parametrize(
    ("flavour", "more", "argv"),
    [
        ("none", {}, ""),
        ("openmpi", {}, "PROGRAM --bind-to none --map-by slot:OVERSUBSCRIBE -n 3"),
        (
            "openmpi",
            {"root": True, "ranks_on": ("a", "a", "b"), "more": ("-x", "A")},
            "PROGRAM --allow-run-as-root --bind-to none --host a:2,b:1 -x A -n 3",
        ),
        (
            "openmpi",
            {"oversubscribe": True, "ranks_on": ("a", "a", "b")},
            "PROGRAM --bind-to none --map-by slot:OVERSUBSCRIBE --host a:2,b:1 -n 3",
        ),
        ("mpich", {"root": True, "oversubscribe": True}, "PROGRAM -n 3"),
        ("mpich", {"ranks_on": ("a", "a", "b")}, "PROGRAM -hosts a:2,b:1 -n 3"),
        (
            "slurm",
            {},
            "PROGRAM --mpi=pmix --kill-on-bad-exit=1 --input=none --overlap --cpu-bind=none -n 3",
        ),
        (
            "slurm",
            {"oversubscribe": True, "ranks_on": ("a", "a", "b")},
            "PROGRAM --mpi=pmix --kill-on-bad-exit=1 --input=none --overlap --cpu-bind=none "
            "--overcommit --distribution=arbitrary --nodelist=a,a,b -n 3",
        ),
    ],
)
def test_mpi_argv(flavour: str, more: dict[str, object], argv: str) -> None:
    assert mpi_argv(Mpi(flavour, "PROGRAM"), 3, **more) == tuple(argv.split())  # type: ignore[arg-type]
